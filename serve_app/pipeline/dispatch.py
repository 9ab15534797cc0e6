"""Pipeline: turns a document's file into recognized pages, for every API and for jobs.

Pixels go from a rasterizer to a recognizer without passing through the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.document import NativePage, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions, Restructuring
from serve_app.document.outline import PageOutline, Structure
from serve_app.errors import ServiceError
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.page_reader import DocumentContext, PageReader
from serve_app.pipeline.replica_calls import RetryPolicy, call_with_retries
from serve_app.scheduling.admission import Admission


@dataclass(frozen=True)
class PageOutcome:
    """The result of one page; `number` counts from 1."""

    number: int
    result: PageResult | ServiceError


class Pipeline:
    """Sends pages to the rasterizer and on to the recognizer of the requested engine.

    At most `queue` pages of all documents are in flight, and `window` of one document. A document needs a `slot`,
    or is refused with QueueFull; its pages beyond the first wait for extra slots.
    """

    def __init__(
        self,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        cache: PageCache,
        *,
        queue: int,
        window: int,
        is_ready: Callable[[str], bool],
        has_replicas: Callable[[str], bool],
        fallbacks: Mapping[str, str],
        engine_wait_s: Mapping[str, float],
        retry: RetryPolicy | None = None,
    ) -> None:
        """`is_ready`: whether some replica of an engine is known to work. `has_replicas`: whether the engine has any.

        `fallbacks` maps an engine to the one that stands in for it. `engine_wait_s` is how long a page waits for a
        replica of each engine. `retry` is for calls whose replica dies.
        """
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._cache = cache
        self._admission = Admission(queue)
        self._window = window
        self._retry = retry or RetryPolicy()
        self._reader = PageReader(
            rasterizer,
            recognizers,
            is_ready=is_ready,
            has_replicas=has_replicas,
            fallbacks=fallbacks,
            engine_wait_s=engine_wait_s,
            retry=self._retry,
        )

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

        `text_layer`: pages of a PDF that contain text are not recognized. The caller has a `slot`, which is for one
        page; more pages are in flight while extra slots are free.
        """
        cached = self._cache.pages_of(source, engine, options, dpi)
        document = DocumentContext(source, engine, options, dpi, text_layer, cached)
        waiting = list(reversed(numbers))
        running: set[asyncio.Task[PageOutcome]] = set()
        extra_slots = 0
        try:
            while waiting or running:
                while waiting and len(running) < self._window:
                    if len(running) > extra_slots:
                        if not self._admission.try_acquire_extra():
                            break
                        extra_slots += 1
                    running.add(asyncio.create_task(self._read(document, waiting.pop())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                while extra_slots and 1 + extra_slots > len(running) + len(waiting):
                    self._admission.release_extra()
                    extra_slots -= 1
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            for _ in range(extra_slots):
                self._admission.release_extra()
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
