"""The daemon: its socket, HTTP, and how it starts, runs and stops."""
