"""InfraKit instance plugins in Python: a daemon, a durable store, and an SDK."""

__version__ = "0.1.0"
