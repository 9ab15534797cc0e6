"""From a document's bytes to the typed document, recognized and stored."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from serve_app.document import (
    DocumentStatus,
    DocumentSummary,
    EngineInfo,
    ErrorInfo,
    Page,
    PageContent,
    PageResult,
    SourceFile,
    StorageInfo,
)
from serve_app.document.figures import qualify_figures
from serve_app.document.ids import new_document_id
from serve_app.document.outline import PageOutline, outline_of
from serve_app.document.spool import PageSpool
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    DocumentTimeout,
    EmptyDocument,
    FieldError,
    InvalidField,
    RecognitionFailed,
    RequestTimeout,
    ServiceError,
    TooManyPages,
)
from serve_app.outputs.rendering import Renderer, WriterPool
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.raster.images import HEADER_WITHIN, sniff
from serve_app.runtime.allocator import trim_heap
from serve_app.runtime.mapped_file import FileContent
from serve_app.settings import Limits

log = logging.getLogger("ray.serve.ingress")

PAGED = ("PDF", "TIFF")
"""Kinds of file that may hold several pages, or none; the others need not be opened to know."""

CHOOSE_PAGES = " Choose some with 'pages'."

WRITERS_AT_ONCE = 2
"""PDFs and DOCX files that are written at a time: each has a process, and perhaps a gigabyte."""


class Documents:
    """Opens documents and reads them through the pipeline; what was read is stored before it is answered."""

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
        """`share` makes of a file what travels to rasterizers (see SourceFile.data), `fetch` the file of that."""
        self.pipeline = pipeline
        self.results = results
        self.cache = cache
        self.limits = limits
        self.writers = WriterPool(WRITERS_AT_ONCE, limits)
        self.fetch = fetch
        self._share = share

    async def open(
        self,
        source: FileContent,
        request: DocumentRequest,
        *,
        owner: str | None,
        timings_ms: dict[str, float],
        started: float,
        document_id: str | None = None,
        limit_s: float | None = None,
    ) -> DocumentRun:
        """Open a document and choose its pages; nothing is read yet. Use the DocumentRun as a context manager.

        `owner` is the name of the key that requests it, None without one. `document_id`: by default, a new one.
        `limit_s`: seconds from `started` in which its pages are read, by default the configured limit.
        `timings_ms` holds the stages so far; `started` is the perf_counter() of the request's start.
        Raises ServiceError if the document cannot be opened or has too many pages.
        """
        with ExitStack() as place:
            place.enter_context(self.pipeline.place())
            if not source:
                raise EmptyDocument()
            kind = sniff(source[:HEADER_WITHIN])
            file = SourceFile(
                id=document_id or new_document_id(),
                data=self._share(source),
                password=request.password,
                owner=owner or "",
                digest=await asyncio.to_thread(self.cache.digest, source),
            )
            page_count = await self.pipeline.count_pages(file) if kind in PAGED else 1
            numbers = self._chosen(request, page_count)
            # With the line at its end, what tells of documents that were lost with this process.
            log.info("document %s: %d page(s) begin", file.id, len(numbers))
            limits = self.limits
            return DocumentRun(
                self,
                file,
                kind,
                request,
                page_count,
                numbers,
                dict(timings_ms),
                started,
                limit_s or (limits.request_s if page_count == 1 else limits.document_s),
                owner,
                place.pop_all(),
            )

    def _chosen(self, request: DocumentRequest, page_count: int) -> list[int]:
        try:
            numbers = request.page_numbers(page_count)
        except ValueError as error:
            raise InvalidField(f"pages: {error}", fields=(FieldError("pages", str(error)),)) from None
        most = min(self.limits.max_pages, request.max_pages or self.limits.max_pages)
        if len(numbers) > most:
            raise TooManyPages(f"{len(numbers)} pages are too many: the limit is {most}.{CHOOSE_PAGES}")
        return numbers


class DocumentRun:
    """One document on its way: first its `pages`, then `finish`. Holds what was read until it is closed."""

    def __init__(
        self,
        documents: Documents,
        file: SourceFile,
        kind: str,
        request: DocumentRequest,
        page_count: int,
        numbers: list[int],
        timings_ms: dict[str, float],
        started: float,
        limit_s: float,
        owner: str | None,
        place: AbstractContextManager[Any],
    ) -> None:
        """`kind` is what `sniff` says of the file, `place` is the document's in the pipeline, and left when its pages are done."""
        self.id = file.id
        self.digest = file.digest
        self.kind = kind
        self.request = request
        self.page_count = page_count
        self.numbers = numbers
        self.spool = PageSpool()
        # The document's own file is not held here: it would be once more in memory for as long as pages come.
        self._source = partial(documents.fetch, file.data)
        self.renderer = Renderer(
            self._source,  # not a method: they would hold each other, and the file, until the garbage is collected
            self.spool,
            password=request.password,
            writers=documents.writers,
        )
        self._documents = documents
        self._file = file
        self._place = ExitStack()
        self._place.enter_context(place)
        self._has_place = True
        self._timings_ms = timings_ms
        self._started = started
        self._limit_s = limit_s
        self._owner = owner
        self._engine: EngineInfo | None = None
        self.failed = 0
        self._degraded = False
        self._outlines: list[PageOutline] = []

    def __enter__(self) -> DocumentRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.close()
        if not self.spool.small:
            trim_heap()
        self.spool.close()

    async def pages(self) -> AsyncGenerator[PageContent, None]:
        """Yield each page that is not read yet as soon as it is done, in any order; a failed one has an `error`.

        Raises ServiceError if no page could be read, and QueueFull if there is no slot to try again.
        """
        if not self._has_place:  # pages that failed are tried again
            self._place.enter_context(self._documents.pipeline.place())
        self._has_place = False  # in a moment, or when it is closed
        limit_s = self._limit_s
        deadline = asyncio.get_running_loop().time() + limit_s - (time.perf_counter() - self._started)
        errors: list[ServiceError] = []
        outcomes = self._documents.pipeline.pages(
            self._file,
            [number for number in self.numbers if number not in self.spool],
            engine=self.request.engine,
            options=self.request.options,
            dpi=self.request.dpi_for(self.kind),
            text_layer=self.request.text_layer,
        )
        async with aclosing(outcomes):
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        outcome = await anext(outcomes)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    log.warning("document %s: %d page(s) were not done in %g s", self.id, self._missing, limit_s)
                    errors.append(RequestTimeout(f"The request took longer than {limit_s:g} s."))
                    break
                if isinstance(outcome.result, ServiceError):
                    errors.append(outcome.result)
                    # Nobody waits for a thousand pages to hear that the engine is away.
                    if self._engine is None and isinstance(outcome.result, ENGINE_UNAVAILABLE):
                        raise outcome.result
                yield self._kept(outcome)
        self._place.close()
        if self._engine is None:
            raise errors[0] if errors else RecognitionFailed()
        for number in self.numbers:
            if number not in self.spool:
                yield self._kept(PageOutcome(number, DocumentTimeout()))

    def restore(self, content: PageContent, engine: EngineInfo) -> None:
        """Take a page that `pages` yielded in an earlier run."""
        if self._engine is None or content.page.text_source == "recognition":
            self._engine = engine
        self._keep(content)

    @property
    def engine(self) -> EngineInfo:
        """The engine that read the document, once a page was read."""
        assert self._engine is not None, "a page was read"
        return self._engine

    def fail(self, page: Page) -> None:
        """Take a page as one that failed before, and is not to be tried again."""
        self.failed += 1
        self.spool.add(PageContent(page))

    def forget(self, numbers: Iterable[int]) -> None:
        """These pages failed, and are to be tried again by `pages`."""
        for number in numbers:
            self.spool.remove(number)
            self.failed -= 1

    async def read_all(self) -> DocumentSummary:
        """All pages, whoever asks for no more than that, and the end. Raises ServiceError."""
        async with aclosing(self.pages()) as pages:
            async for _ in pages:
                pass
        return await self.finish()

    async def finish(self, *, of_job: bool = False) -> DocumentSummary:
        """Store the result; where that fails, the summary says so and still comes, unless it is `of_job` (see Results)."""
        assert self._engine is not None, "a page was read"
        warnings = await self._restructure()
        summary = DocumentSummary(
            id=self.id,
            status=DocumentStatus.PARTIAL if self.failed else DocumentStatus.DONE,
            page_count=self.page_count,
            engine=self._engine,
            degraded=self._degraded,
            warnings=warnings,
            timings_ms={stage: round(ms, 1) for stage, ms in self._timings_ms.items()},
            storage=StorageInfo(status="failed"),
        )
        await self._documents.results.keep(summary, self.spool, self.renderer, self._source, of_job=of_job)
        summary.timings_ms["total"] = _ms_since(self._started)
        log.info(
            "document %s: key %r, engine %s, %d page(s), %s, %.0f ms",
            self.id, self._owner, summary.engine.name, len(self.numbers), summary.status,
            summary.timings_ms["total"],
        )  # fmt: skip
        return summary

    async def _restructure(self) -> list[ErrorInfo]:
        """Make of the pages one document, where the engine can; where that fails, say so."""
        if len(self._outlines) < 2:
            return []
        started = time.perf_counter()
        outlines = sorted(self._outlines, key=lambda outline: outline.number)
        limit_s = self._documents.limits.page_s
        try:
            async with asyncio.timeout(limit_s):
                self.spool.structure = await self._documents.pipeline.structure(
                    self.request.engine, outlines, self.request.options
                )
        except (ServiceError, TimeoutError) as error:
            reason = error.code if isinstance(error, ServiceError) else f"it took longer than {limit_s:g} s"
            log.warning("document %s: pages are not made one piece: %s", self.id, reason)
            return [ErrorInfo(code="not_restructured", message="Tables and headings are as they are page by page.")]
        self._timings_ms["restructure"] = _ms_since(started)
        return []

    @property
    def _missing(self) -> int:
        return len(self.numbers) - len(self.spool)

    def _kept(self, outcome: PageOutcome) -> PageContent:
        if isinstance(outcome.result, PageResult):
            result = outcome.result
            content = result.content if self.page_count == 1 else qualify_figures(result.content, outcome.number)
            if not self.request.keep_native:
                content = replace(content, native=None)
            page = content.page
            page.number = outcome.number
            if self._engine is None or page.text_source == "recognition":
                self._engine = result.engine
            for stage, ms in result.timings_ms.items():
                self._timings_ms[stage] = self._timings_ms.get(stage, 0.0) + ms
            self._keep(content)
            return content
        self.failed += 1
        error = ErrorInfo(code=outcome.result.code, message=outcome.result.message)
        content = PageContent(Page(number=outcome.number, width=0, height=0, dpi=0, error=error))
        self.spool.add(content)
        return content

    def _keep(self, content: PageContent) -> None:
        self._degraded |= content.page.degraded
        self.spool.add(content)
        if self.request.restructure and (outline := outline_of(content.page)) is not None:
            self._outlines.append(outline)


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
