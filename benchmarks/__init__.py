"""Benchmarks of the daemon against its limits: `python -m benchmarks`.

`cases` measure, `load` sends requests, `servers` answer them, and `report` compares and prints the results.
"""
