"""DocumentRun: one document from its opening to its stored result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from serve_app.document import DocumentStatus, DocumentSummary, ErrorInfo, PageContent, SourceFile, StorageInfo
from serve_app.document.warnings import NOT_RESTRUCTURED
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    DocumentTimeout,
    RecognitionFailed,
    RequestTimeout,
    ServiceError,
)
from serve_app.outputs.rendering import Renderer, WriterPool
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.page_collector import PageCollector
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.pipeline.timings import Timings
from serve_app.runtime.allocator import trim_heap
from serve_app.runtime.end_line import note

log = logging.getLogger("ray.serve.ingress")

Item = TypeVar("Item")


@dataclass(frozen=True)
class OpenDocument:
    """A document that was opened: its file, the file's kind (see `sniff`), and the numbers of the pages to read."""

    file: SourceFile
    kind: str
    page_count: int
    numbers: list[int]


@dataclass(frozen=True)
class RunLimits:
    """Time limits in seconds: `read_s` for all pages, from the request's start; `restructure_s` for restructuring."""

    read_s: float
    restructure_s: float


class DocumentRun:
    """Reads an open document: first its `pages`, then `finish`. A context manager that frees its pages on exit."""

    def __init__(
        self,
        document: OpenDocument,
        request: DocumentRequest,
        *,
        owner: str | None,
        timings: Timings,
        limits: RunLimits,
        pipeline: Pipeline,
        results: Results,
        writers: WriterPool,
        source: Callable[[], Awaitable[bytes | memoryview]],
        slot: ExitStack,
    ) -> None:
        """`source` fetches the file, which does not stay in memory while pages are read.

        `slot` holds the document's slot in the pipeline, which is released when the pages are done.
        """
        self.id = document.file.id
        self.digest = document.file.digest
        self.kind = document.kind
        self.page_count = document.page_count
        self.numbers = document.numbers
        self.request = request
        self.collector = PageCollector(request, document.numbers, timings, qualify=document.page_count > 1)
        self.spool = self.collector.spool
        self.writers = writers.of(owner or "")
        self.renderer = Renderer(source, self.spool, password=request.password, writers=self.writers)
        self._file = document.file
        self._owner = owner
        self._timings = timings
        self._limits = limits
        self._pipeline = pipeline
        self._results = results
        self._source = source
        self._slot: ExitStack | None = slot

    def __enter__(self) -> DocumentRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slot is not None:
            self._slot.close()
        if not self.spool.is_in_memory:
            trim_heap()
        self.spool.close()

    async def pages(self) -> AsyncGenerator[PageContent, None]:
        """Yield each missing page as soon as it is done, in any order; a failed one has an `error`.

        May be called again after `collector.retract`. Raises ServiceError if no page of the document could be
        read, and QueueFull if there is no slot to try again.
        """
        errors: list[ServiceError] = []
        deadline = asyncio.get_running_loop().time() + self._limits.read_s - self._timings.elapsed_s
        with self._take_slot():
            try:
                async with aclosing(within_deadline(self._outcomes(), deadline)) as outcomes:
                    async for outcome in outcomes:
                        if isinstance(outcome.result, ServiceError):
                            errors.append(outcome.result)
                            self._raise_if_hopeless(outcome.result)
                        yield self.collector.add(outcome)
            except TimeoutError:
                missing, limit_s = len(self.collector.missing), self._limits.read_s
                log.warning("document %s: %d page(s) were not done in %g s", self.id, missing, limit_s)
                errors.append(RequestTimeout(f"The request took longer than {limit_s:g} s."))
        if not self.collector.has_read:
            raise errors[0] if errors else RecognitionFailed()
        for number in self.collector.missing:
            yield self.collector.add(PageOutcome(number, DocumentTimeout()))

    async def read_all(self) -> DocumentSummary:
        """Read all pages, then store the result; for callers that do not stream. Raises ServiceError."""
        async with aclosing(self.pages()) as pages:
            async for _ in pages:
                pass
        return await self.finish()

    async def finish(self) -> DocumentSummary:
        """Restructure the document and store its result. If storing fails, the summary says so."""
        summary = await self._summarize()
        await self._results.save(summary, self.spool, self.renderer, self._source)
        self._note_end(summary)
        return summary

    async def finish_job(self) -> DocumentSummary:
        """Restructure the document of a job and store its result. Raises the errors of `Results.save_job`."""
        summary = await self._summarize()
        await self._results.save_job(summary, self.spool, self.renderer, self._source)
        self._note_end(summary)
        return summary

    async def _summarize(self) -> DocumentSummary:
        warnings = await self._restructure()
        return DocumentSummary(
            id=self.id,
            status=DocumentStatus.PARTIAL if self.collector.failed else DocumentStatus.DONE,
            page_count=self.page_count,
            engine=self.collector.engine,
            degraded=self.collector.degraded,
            warnings=warnings,
            page_warnings=self.collector.warnings,
            timings_ms=self._timings.stages_ms(),
            storage=StorageInfo(status="failed"),
        )

    def _note_end(self, summary: DocumentSummary) -> None:
        """Add the total time to the summary, and note what the line of the request or job says."""
        summary.timings_ms["total"] = self._timings.elapsed_ms
        note(
            engine=summary.engine.name,
            status=summary.status,
            failed=self.collector.failed,
            stages_ms={stage: round(ms) for stage, ms in summary.timings_ms.items() if stage != "total"},
        )

    def _take_slot(self) -> AbstractContextManager[Any]:
        """Return the slot from the document's opening; later calls return a new one. Raises QueueFull."""
        slot, self._slot = self._slot, None
        return self._pipeline.slot() if slot is None else slot

    def _outcomes(self) -> AsyncGenerator[PageOutcome, None]:
        return self._pipeline.pages(
            self._file,
            self.collector.missing,
            engine=self.request.engine,
            options=self.request.options,
            dpi=self.request.dpi_for(self.kind),
            text_layer=self.request.text_layer,
        )

    def _raise_if_hopeless(self, error: ServiceError) -> None:
        """Raise the error if the engine is unavailable and no page has been read: all other pages would fail as well."""
        if not self.collector.has_read and isinstance(error, ENGINE_UNAVAILABLE):
            raise error

    async def _restructure(self) -> list[ErrorInfo]:
        """Let the engine find structure across pages; returns a warning if that fails."""
        outlines, limit_s = self.collector.outlines, self._limits.restructure_s
        if len(outlines) < 2:
            return []
        try:
            with self._timings.measure("restructure"):
                async with asyncio.timeout(limit_s):
                    self.spool.structure = await self._pipeline.structure(
                        self.request.engine, outlines, self.request.options
                    )
        except (ServiceError, TimeoutError) as error:
            reason = error.code if isinstance(error, ServiceError) else f"it took longer than {limit_s:g} s"
            log.warning("document %s: pages are not restructured: %s", self.id, reason)
            return [NOT_RESTRUCTURED]
        return []


async def within_deadline(items: AsyncGenerator[Item, None], deadline: float) -> AsyncGenerator[Item, None]:
    """Yield `items`, which are closed at the end. Raises TimeoutError at the deadline, a time of the event loop."""
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            yield item
