"""Benchmarks, each against the best possible result: `python -m benchmarks --help`."""
