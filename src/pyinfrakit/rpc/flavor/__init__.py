"""InfraKit's Flavor interface, versions 0.1.0 and 0.1.1."""
