"""Answers that may be larger than memory should hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.document import DocumentSummary
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat

WHOLE_BYTES = 1 * 2**20
CHUNK_BYTES = 256 * 2**10

BYTES_PER_SECOND = 32 * 2**20
"""Serve takes what is sent into a queue without a bound, and passes all of it on at once: sent as fast as it is read,
an answer would be in memory twice before the first of it leaves. A thousand pages of dense text are 75 MB."""

_FILES = (OutputFormat.DOCX, OutputFormat.PDF, OutputFormat.ZIP)
"""What browsers shall save, with a name that says what it is."""


def document_answer(
    file: BinaryIO,
    kind: OutputFormat,
    summary: DocumentSummary,
    held: ExitStack,
    *,
    failed: int,
    file_name: str | None = None,
) -> Response:
    """A rendered output as the answer; `held` as in `file_answer`.

    `failed`: how many pages have an error, which not every form can tell. `file_name` of the document, where it has one.
    """
    headers = {
        "X-Document-ID": summary.id,
        "X-Document-Status": summary.status,
        "X-Pages-Failed": str(failed),
        "X-Storage-Status": summary.storage.status,
        "X-Content-Type-Options": "nosniff",
    }
    if kind in _FILES:
        headers["Content-Disposition"] = f'attachment; filename="{summary.id}.{kind}"'
        if file_name is not None:
            named = quote(f"{PurePosixPath(file_name).stem}.{kind}".encode("utf-8", "replace"), safe="")
            headers["Content-Disposition"] += f"; filename*=UTF-8''{named}"
    elif kind is OutputFormat.HTML:
        headers["Content-Security-Policy"] = (
            "sandbox"  # beside the page's own policy, should it ever be shown from here
        )
    return file_answer(file, MEDIA_TYPES[kind], headers, held)


def file_answer(file: BinaryIO, media_type: str, headers: dict[str, str], held: ExitStack) -> Response:
    """A file as the answer; it is closed by then, or when the last of it was sent.

    So is `held` taken over where that takes a while: whoever reads slowly has a place until then.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size <= WHOLE_BYTES:
        with file:
            return Response(file.read(), headers=headers, media_type=media_type)
    headers = {**headers, "Content-Length": str(size)}
    return _FileStream(file, held.pop_all(), headers=headers, media_type=media_type)


class _FileStream(StreamingResponse):
    def __init__(self, file: BinaryIO, held: ExitStack, *, headers: dict[str, str], media_type: str) -> None:
        super().__init__(_chunks(file), headers=headers, media_type=media_type)
        self._file = file
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held, self._file:
            await super().__call__(scope, receive, send)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk
        await asyncio.sleep(CHUNK_BYTES / BYTES_PER_SECOND)
