"""Reads responses of an inference server, which is not trusted to keep them small."""

from __future__ import annotations

import aiohttp

CHUNK = 64 * 1024


class ResponseTooLarge(Exception):
    """The response is larger than any valid one; its connection is closed."""


async def read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a body of at most `max_bytes`. Raises ResponseTooLarge, aiohttp.ClientError."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > max_bytes:
            response.close()
            raise ResponseTooLarge
    return bytes(body)
