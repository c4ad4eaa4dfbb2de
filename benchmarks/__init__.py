"""How fast the daemon is, beside what bounds it: `python -m benchmarks`."""
