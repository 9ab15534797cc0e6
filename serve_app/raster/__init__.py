"""Decodes files into pages, in a separate process.

May use scheduling, runtime and below. Knows no engines, dialects or HTTP.
"""
