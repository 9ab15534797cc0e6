"""Answers that may be larger than memory should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

from fastapi import Response
from fastapi.responses import StreamingResponse

WHOLE_BYTES = 1 * 2**20
CHUNK_BYTES = 256 * 2**10


def file_answer(file: BinaryIO, media_type: str, headers: Mapping[str, str]) -> Response:
    """A rendered output as the answer; the file is closed by then, or when the last of it was sent."""
    size = file.seek(0, 2)
    file.seek(0)
    if size <= WHOLE_BYTES:
        with file:
            return Response(file.read(), headers=dict(headers), media_type=media_type)
    return StreamingResponse(_chunks(file), headers={**headers, "Content-Length": str(size)}, media_type=media_type)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
