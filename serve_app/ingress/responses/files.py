"""Responses made of files, which may be too large for memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.document import DocumentSummary
from serve_app.document.page_ranges import page_ranges
from serve_app.outputs.formats import OutputFormat, file_type
from serve_app.outputs.writer_client import WrittenFile

WHOLE_BYTES = 1 * 2**20
CHUNK_BYTES = 256 * 2**10

BYTES_PER_SECOND = 32 * 2**20
"""Pace of large responses. Serve puts chunks into an unbounded queue, so a file sent as fast as it is read would be in
memory twice before its first byte leaves. A thousand pages of dense text are 75 MB."""

_MAX_RANGES = 100
"""Most ranges of pages in a header: clients and proxies take headers of 8 kB."""

_FILES = (
    OutputFormat.DOCX,
    OutputFormat.PDF,
    OutputFormat.ZIP,
    OutputFormat.HOCR,
    OutputFormat.ALTO,
    OutputFormat.PAGE_XML,
)
"""Formats that browsers should save, under a file name with the right extension."""


def document_response(
    written: WrittenFile,
    kind: OutputFormat,
    summary: DocumentSummary,
    resources: ExitStack,
    *,
    pages: int,
    failed: int,
    file_name: str | None = None,
) -> Response:
    """Respond with a rendered output; `resources` as in `file_response`.

    `pages` is the number of pages in it, `failed` the number of those with an error, which some formats cannot show.
    `file_name` is the document's.
    """
    name, media_type = file_type(kind, pages)
    headers = {
        "X-Document-ID": summary.id,
        "X-Document-Status": summary.status,
        "X-Pages-Failed": str(failed),
        "X-Storage-Status": summary.storage.status,
        "X-Content-Type-Options": "nosniff",
        **warning_headers(summary, written.warnings),
    }
    if written.pages_drawn:
        headers["X-Pages-Drawn"] = page_ranges(written.pages_drawn, most=_MAX_RANGES)
    if kind in _FILES:
        extension = name.partition(".")[2]
        headers["Content-Disposition"] = f'attachment; filename="{summary.id}.{extension}"'
        if file_name is not None:
            named = quote(f"{PurePosixPath(file_name).stem}.{extension}".encode("utf-8", "replace"), safe="")
            headers["Content-Disposition"] += f"; filename*=UTF-8''{named}"
    elif kind is OutputFormat.HTML:
        headers["Content-Security-Policy"] = (
            "sandbox"  # in addition to the policy within the page, since a browser may open the page from this origin
        )
    return file_response(written.file, media_type, headers, resources)


def warning_headers(summary: DocumentSummary, of_file: Sequence[str] = ()) -> dict[str, str]:
    """Return the header with the codes of all warnings, which most formats cannot show. `of_file` are the file's own."""
    codes = dict.fromkeys([*(warning.code for warning in summary.warnings), *summary.page_warnings, *of_file])
    return {"X-Document-Warnings": ", ".join(codes)} if codes else {}


def file_response(file: BinaryIO, media_type: str, headers: dict[str, str], resources: ExitStack) -> Response:
    """Respond with a file, and close it. A small one is sent at once.

    A large one is streamed: then the response takes over `resources`, so a slow reader keeps its slot to the end.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size <= WHOLE_BYTES:
        with file:
            return Response(file.read(), headers=headers, media_type=media_type)
    headers = {**headers, "Content-Length": str(size)}
    return _FileStream(file, resources.pop_all(), headers=headers, media_type=media_type)


class _FileStream(StreamingResponse):
    def __init__(self, file: BinaryIO, resources: ExitStack, *, headers: dict[str, str], media_type: str) -> None:
        super().__init__(_chunks(file), headers=headers, media_type=media_type)
        self._file = file
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources, self._file:
            await super().__call__(scope, receive, send)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk
        await asyncio.sleep(CHUNK_BYTES / BYTES_PER_SECOND)
