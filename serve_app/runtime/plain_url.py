"""URLs for people: without what may be secret."""

from __future__ import annotations

from urllib.parse import urlsplit


def plain_url(url: str) -> str:
    """Return a URL without user, password and query, which may be secrets."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "an address that is not valid"
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
