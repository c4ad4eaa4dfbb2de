"""InfraKit's Instance interface, from version 0.1.0 to 0.6.1."""
