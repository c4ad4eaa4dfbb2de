"""InfraKit's Group interface, versions 0.1.0 and 0.1.1, and the calls of our own command line."""
