"""The servers and providers that the cases measure: the daemon, its baselines, and emulated machines."""
