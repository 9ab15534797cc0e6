"""Documents: opens a document, checks its limits, and starts its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from serve_app.document import SourceFile
from serve_app.document.ids import new_document_id
from serve_app.errors import EmptyDocument, FieldError, InvalidField, TooManyPages
from serve_app.outputs.rendering import WriterPool
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.document_run import DocumentRun, OpenDocument, RunLimits
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.pipeline.timings import Timings
from serve_app.raster.images import HEADER_SEARCH_BYTES, sniff
from serve_app.runtime.end_line import note
from serve_app.runtime.mapped_file import FileContent
from serve_app.settings import Limits

PAGED = ("PDF", "TIFF")
"""Kinds of file that may have several pages, or none. A file of another kind has one."""

CHOOSE_PAGES = " Choose some with 'pages'."

WRITERS_AT_ONCE = 2
"""PDF and DOCX files written concurrently. Each takes a process, and perhaps a gigabyte."""


class Documents:
    """Opens documents, which share one pipeline, one cache and one store."""

    def __init__(
        self,
        pipeline: Pipeline,
        results: Results,
        cache: PageCache,
        *,
        limits: Limits,
        share: Callable[[FileContent], Any],
        fetch: Callable[[Any], Awaitable[bytes | memoryview]],
    ) -> None:
        """`share` makes a file available to rasterizers (see SourceFile.data); `fetch` gets it back."""
        self.pipeline = pipeline
        self.cache = cache
        self.writers = WriterPool(WRITERS_AT_ONCE, limits)
        self._results = results
        self._limits = limits
        self._share = share
        self._fetch = fetch

    async def open(
        self,
        source: FileContent,
        request: DocumentRequest,
        *,
        owner: str | None,
        timings: Timings,
        document_id: str | None = None,
        limit_s: float | None = None,
    ) -> DocumentRun:
        """Open a document and choose its pages; nothing is read yet. Use the DocumentRun as a context manager.

        `owner` is the name of the key that requests it, None without one. `document_id`: by default, a new one.
        `limit_s`: seconds for its pages, counted from the start of `timings`; by default the configured limit.
        Raises ServiceError if the document cannot be opened or has too many pages, and QueueFull without a free slot.
        """
        with ExitStack() as slot:
            slot.enter_context(self.pipeline.slot())
            if not source:
                raise EmptyDocument()
            kind = sniff(source[:HEADER_SEARCH_BYTES])
            file = SourceFile(
                id=document_id or new_document_id(),
                data=await asyncio.to_thread(self._share, source),
                password=request.password,
                owner=owner or "",
                digest=await asyncio.to_thread(self.cache.digest, source),
            )
            page_count = await self.pipeline.count_pages(file) if kind in PAGED else 1
            numbers = self._page_numbers(request, page_count)
            note(document=file.id, pages=len(numbers), document_bytes=len(source))
            default_s = self._limits.request_s if page_count == 1 else self._limits.document_s
            return DocumentRun(
                OpenDocument(file, kind, page_count, numbers),
                request,
                owner=owner,
                timings=timings,
                limits=RunLimits(limit_s or default_s, self._limits.page_s),
                pipeline=self.pipeline,
                results=self._results,
                writers=self.writers,
                source=partial(self._fetch, file.data),
                slot=slot.pop_all(),
            )

    def _page_numbers(self, request: DocumentRequest, page_count: int) -> list[int]:
        try:
            numbers = request.page_numbers(page_count)
        except ValueError as error:
            raise InvalidField(f"pages: {error}", fields=(FieldError("pages", str(error)),)) from None
        most = min(self._limits.max_pages, request.max_pages or self._limits.max_pages)
        if len(numbers) > most:
            raise TooManyPages(f"{len(numbers)} pages are too many: the limit is {most}.{CHOOSE_PAGES}")
        return numbers
