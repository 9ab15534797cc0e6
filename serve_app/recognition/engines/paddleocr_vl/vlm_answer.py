"""Reading what an inference server answers: it may be anybody's, and at work on anybody's pages."""

from __future__ import annotations

import aiohttp

CHUNK = 64 * 1024


class AnswerTooLarge(Exception):
    """The answer is larger than any that makes sense; the connection is given up."""


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of an answer of at most `most` bytes. Raises AnswerTooLarge, aiohttp.ClientError."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > most:
            response.close()
            raise AnswerTooLarge
    return bytes(body)
