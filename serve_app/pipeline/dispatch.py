"""Pipeline: turns a document's file into recognized pages, for every API and for jobs.

Pixels go from a rasterizer to a recognizer without passing through the caller.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.document import NativePage, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions, Restructuring
from serve_app.document.outline import PageOutline, Structure
from serve_app.errors import ServiceError
from serve_app.metrics.catalogue import PAGES_IN_FLIGHT, PAGES_WAITING
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.page_reader import DocumentContext, PageReader
from serve_app.pipeline.replica_calls import RetryPolicy, call_with_retries
from serve_app.pipeline.window_limits import WindowLimits
from serve_app.scheduling.admission import Admission
from serve_app.scheduling.page_slots import PageSlots

UNREAD_PAGES = 16
"""Pages of a document that may be done and not yet taken by its reader; as many as are in flight, if those are more. A reader
that is slower than the engines, or stands still, so holds little memory and no slots."""


@dataclass(frozen=True)
class PageOutcome:
    """The result of one page; `number` counts from 1."""

    number: int
    result: PageResult | ServiceError


class Pipeline:
    """Sends pages to the rasterizer and on to the recognizer of the requested engine.

    A document needs a `slot`, or is refused with QueueFull. Its pages share the PageSlots of its engine with those of
    other documents.
    """

    def __init__(
        self,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        cache: PageCache,
        *,
        limits: WindowLimits,
        is_ready: Callable[[str], bool],
        has_replicas: Callable[[str], bool],
        fallbacks: Mapping[str, str],
        engine_wait_s: Mapping[str, float],
        in_line: Callable[[str], int] = lambda engine: 0,
        retry: RetryPolicy | None = None,
    ) -> None:
        """`is_ready`: whether some replica of an engine is known to work. `has_replicas`: whether the engine has any.

        `fallbacks` maps an engine to the one that stands in for it. `engine_wait_s` is how long a page waits for a
        replica of each engine. `in_line` counts the pages of documents that wait to be opened here. `retry` is for calls
        whose replica dies.
        """
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._cache = cache
        self._limits = limits
        self._admission = Admission(lambda: self.most_documents)
        self._slots = {
            engine: PageSlots(partial(limits.pages, engine), partial(in_line, engine)) for engine in recognizers
        }
        self._retry = retry or RetryPolicy()
        self._reader = PageReader(
            rasterizer,
            recognizers,
            is_ready=is_ready,
            has_replicas=has_replicas,
            behind=lambda engine: self._slots[engine].behind,
            fallbacks=fallbacks,
            engine_wait_s=engine_wait_s,
            retry=self._retry,
        )

    def capacity(self, engine: str) -> int:
        """Return how many pages an engine can take from here now."""
        return self._limits.pages(engine)

    def measure(self) -> None:
        """Set the metrics of the pages of all documents here."""
        for engine, slots in self._slots.items():
            PAGES_IN_FLIGHT.set(slots.in_use, engine=engine)
            PAGES_WAITING.set(slots.waiting_in_all, engine=engine)

    @property
    def most_documents(self) -> int:
        """How many documents may have a slot now."""
        return self._limits.documents(self._recognizers)

    def slot(self) -> AbstractContextManager[None]:
        """Return a slot for a document, for use from its opening until its pages are done. Raises QueueFull."""
        return self._admission.slot()

    async def count_pages(self, source: SourceFile) -> int:
        """Count the document's pages. Raises ServiceError if it cannot be opened."""

        def send() -> Any:
            return self._rasterizer.count_pages.remote(*source.as_arguments(), owner=source.owner)

        return int(await call_with_retries(send, self._retry, lost="the rasterizer that opened a document died"))

    async def pages(
        self,
        source: SourceFile,
        numbers: Sequence[int],
        *,
        engine: str,
        options: RecognitionOptions,
        dpi: int | None,
        text_layer: bool = False,
    ) -> AsyncGenerator[PageOutcome, None]:
        """Yield each of these pages as soon as it is done, in any order. Closing it cancels the pages in flight.

        `text_layer`: pages of a PDF that contain text are not recognized. The caller has a `slot`.
        """
        cached = self._cache.pages_of(source, engine, options, dpi)
        document = DocumentContext(source, engine, options, dpi, text_layer, cached)
        waiting = deque(numbers)
        running: set[asyncio.Task[PageOutcome]] = set()
        done: deque[PageOutcome] = deque()
        has_news = asyncio.Event()
        loop = asyncio.get_running_loop()

        def start_pages() -> None:
            while waiting:
                if len(done) >= max(UNREAD_PAGES, len(running)):
                    window.pause()
                    return
                if not window.take():
                    return
                task = asyncio.create_task(self._read(document, waiting.popleft()))
                running.add(task)
                task.add_done_callback(on_done)

        def on_done(task: asyncio.Task[PageOutcome]) -> None:
            if task not in running:
                return  # it ended just before the document was closed, which has released its slot
            running.remove(task)
            if not task.cancelled():
                done.append(task.result())
            window.release()
            start_pages()
            has_news.set()

        with self._slots[engine].open(
            len(waiting),
            owner=source.owner,
            document=source.id,
            most=self._limits.pages_of_document,
            # In this context, whoever releases the slot: the log's request id is in it.
            on_grant=partial(loop.call_soon, start_pages, context=contextvars.copy_context()),
        ) as window:
            try:
                start_pages()
                while waiting or running or done:
                    if done:
                        yield done.popleft()
                        start_pages()
                    else:
                        has_news.clear()
                        await has_news.wait()
            finally:
                waiting.clear()
                for task in running:
                    task.remove_done_callback(on_done)
                    task.cancel()
                running.clear()
                self._reader.forget(document)

    async def structure(self, engine: str, outlines: Sequence[PageOutline], options: RecognitionOptions) -> Structure:
        """Let the engine that read these pages find the structure across them. Raises ServiceError."""

        def send() -> Any:
            return self._recognizers[engine].restructure.remote(outlines, options)

        lost = "the recognizer that structured a document died"
        return Structure(await call_with_retries(send, self._retry, lost=lost))

    async def restructure_pages(
        self, engine: str, pages: Sequence[NativePage], restructuring: Restructuring
    ) -> list[NativePage]:
        """Restructure the pages of a document, in the engine's native form. Raises ServiceError."""

        def send() -> Any:
            return self._recognizers[engine].restructure_pages.remote(pages, restructuring)

        lost = "the recognizer that restructured pages died"
        restructured: list[NativePage] = await call_with_retries(send, self._retry, lost=lost)
        return restructured

    async def _read(self, document: DocumentContext, number: int) -> PageOutcome:
        return PageOutcome(number, await self._reader.read(document, number))
