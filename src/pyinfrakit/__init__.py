"""Groups of machines that heal themselves: a group controller and instance plugins, for InfraKit and without it."""

__version__ = "0.1.0"
