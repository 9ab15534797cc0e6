"""Decodes files into pages, in a process of its own.

May use scheduling, runtime and below. Knows no engines, dialects or HTTP.
"""
