"""Measurements of the service, each against what it could reach: `python -m benchmarks --help`."""
