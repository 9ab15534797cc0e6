"""ASGI middleware that every request passes: request id, API key, error responses, documentation pages.

Knows no route.
"""
