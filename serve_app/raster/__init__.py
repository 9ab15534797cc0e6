"""Decodes files into pages, in a process of its own. Knows no engines, dialects or HTTP."""
