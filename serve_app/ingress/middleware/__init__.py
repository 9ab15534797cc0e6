"""What every request passes before a route: request id, key, one shape for errors, documentation pages.

Knows no route.
"""
