"""Fetches documents behind URLs, and posts webhooks, to addresses of strangers. May use storage and below."""
