"""The one way from a document's bytes to its recognized pages; every surface goes through here.

Pixels go from a rasterizer to a recognizer without passing through the caller. Recognition is a pure
function of a page and its options, so a page that dies with its replica is simply sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.document import ErrorInfo, NativePage, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions, Restructuring
from serve_app.document.outline import PageOutline, Structure
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    EngineFailed,
    EngineLoading,
    QueueFull,
    RecognitionFailed,
    ServiceError,
    ServiceUnavailable,
)
from serve_app.pipeline.page_cache import CachedPages, PageCache
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S, Admission

log = logging.getLogger("ray.serve.pipeline")

# A page that has taken this many replicas down with it is not given another.
ATTEMPTS = 4
RETRY_PAUSE_S = 0.2
# Of a document, pages that have each taken so many down before the others are not tried any more.
DEADLY_PAGES = 2
# How often a page that waits looks whether there still is somebody to wait for.
LOOK_S = 1.0


@dataclass(frozen=True)
class _Asked:
    """What is the same for all pages of a document."""

    source: SourceFile
    engine: str
    options: RecognitionOptions
    dpi: int | None
    text_layer: bool
    cached: CachedPages | None


@dataclass(frozen=True)
class PageOutcome:
    """What became of one page; `number` counts from 1."""

    number: int
    result: PageResult | ServiceError


class Pipeline:
    """Sends pages to the rasterizer and on to the recognizer of the engine that was asked for.

    At most `queue` pages of one pipeline wait or are worked on, and `window` of one document. A document
    for which there is no place is refused with QueueFull; pages beyond its first wait for places.
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
        engine_wait_s: float,
    ) -> None:
        """`is_ready` tells of an engine whether a replica of it is known to work, `has_replicas` whether there is one.

        `fallbacks`: the engine that stands in for another one. `engine_wait_s`: how long a page waits for a replica.
        """
        self._rasterizer = rasterizer
        self._recognizers = recognizers
        self._cache = cache
        self._admission = Admission(queue)
        self._window = window
        self._is_ready = is_ready
        self._has_replicas = has_replicas
        self._fallbacks = fallbacks
        self._engine_wait_s = engine_wait_s
        self._deadly_pages: Counter[str] = Counter()  # by document, while it is read

    def slot(self) -> AbstractContextManager[None]:
        """A slot for a document, to hold from its opening until its pages are done. Raises QueueFull."""
        return self._admission.slot()

    async def count_pages(self, source: SourceFile) -> int:
        """How many pages the document has. Raises ServiceError where it cannot be opened."""

        def ask() -> Any:
            return self._rasterizer.count_pages.remote(source.id, source.data, source.password, owner=source.owner)

        return int(await self._asked(ask, "a document lost its rasterizer"))

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
        """Yield each of these pages as it is done, in whatever order. Pages in flight are given up when it is closed.

        `text_layer`: pages that have text of their own are not recognized. The caller holds a `place`, which is
        for one page; for others at the same time, more are taken while there are many.
        """
        asked = _Asked(source, engine, options, dpi, text_layer, self._cache.pages_of(source, engine, options, dpi))
        waiting = list(reversed(numbers))
        running: set[asyncio.Task[PageOutcome]] = set()
        spare = 0
        try:
            while waiting or running:
                while waiting and len(running) < self._window:
                    if len(running) > spare:
                        if not self._admission.try_acquire_extra():
                            break
                        spare += 1
                    running.add(asyncio.create_task(self._outcome(asked, waiting.pop())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                while spare and 1 + spare > len(running) + len(waiting):
                    self._admission.release_extra()
                    spare -= 1
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            for _ in range(spare):
                self._admission.release_extra()
            self._deadly_pages.pop(source.id, None)

    async def structure(self, engine: str, outlines: Sequence[PageOutline], options: RecognitionOptions) -> Structure:
        """How the document of these pages is of one piece, by the engine that has read them. Raises ServiceError."""

        def ask() -> Any:
            return self._recognizers[engine].restructure.remote(outlines, options)

        return Structure(await self._asked(ask, "the structure of a document lost its recognizer"))

    async def restructure_pages(self, engine: str, pages: Sequence[NativePage], how: Restructuring) -> list[NativePage]:
        """Restructure the pages of a document, in the engine's native form. Raises ServiceError."""

        def ask() -> Any:
            return self._recognizers[engine].restructure_pages.remote(pages, how)

        restructured: list[NativePage] = await self._asked(ask, "pages to restructure lost their recognizer")
        return restructured

    async def _asked(self, ask: Callable[[], Awaitable[Any]], lost: str) -> Any:
        """What a replica answers; another one is asked where it dies. Raises ServiceError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await ask()
            except RayActorError:
                log.warning("%s (try %d of %d)", lost, attempt, ATTEMPTS)
                await asyncio.sleep(RETRY_PAUSE_S * attempt)
                continue
            except BackPressureError:
                raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S) from None
            except DeploymentUnavailableError:
                log.exception("a deployment has failed; `serve status` tells why")
                raise ServiceUnavailable(retry_after_s=BUSY_RETRY_AFTER_S) from None
            if isinstance(answer, ServiceError):
                raise answer
            return answer
        raise RecognitionFailed("The document could not be read: every replica that tried it died.")

    async def _outcome(self, asked: _Asked, number: int) -> PageOutcome:
        try:
            result = await self._read(asked, number)
        except Exception:  # whatever it is, the other pages of the document are not to blame
            log.exception("page %d of a document failed", number)
            result = RecognitionFailed()
        return PageOutcome(number, result)

    async def _read(self, asked: _Asked, number: int) -> PageResult | ServiceError:
        if asked.text_layer and (own := await self._own_text(asked, number)) is not None:
            return own
        if asked.cached is None:
            return await self._recognized(asked, number)
        started = time.perf_counter()
        if (kept := await asked.cached.get(number)) is not None:
            return replace(kept, timings_ms={"cache": (time.perf_counter() - started) * 1000})
        result = await self._recognized(asked, number)
        if isinstance(result, PageResult):
            await asked.cached.put(number, result)
        return result

    async def _recognized(self, asked: _Asked, number: int) -> PageResult | ServiceError:
        result = await self._page(asked, number, asked.engine)
        fallback = self._fallbacks.get(asked.engine)
        # A page that one engine failed on may be easy for another; what is wrong with it is wrong for both.
        if isinstance(result, (*ENGINE_UNAVAILABLE, RecognitionFailed)) and fallback is not None:
            result = _stood_in(await self._page(asked, number, fallback), result)
        return result

    async def _own_text(self, asked: _Asked, number: int) -> PageResult | None:
        """The page's own text. Where that fails, its pixels may still be recognized."""
        source = asked.source
        try:
            own = await self._rasterizer.read_text.remote(
                source.id, source.data, source.password, number, asked.dpi, owner=source.owner
            )
        except (RayError, RayServeException) as error:
            log.warning("page %d's own text could not be read: %s", number, type(error).__name__)
            return None
        return own if isinstance(own, PageResult) else None

    async def _page(self, asked: _Asked, number: int, engine: str) -> PageResult | ServiceError:
        """The page as `engine` reads it, which may be the fallback of the one asked for."""
        source, recognizer = asked.source, self._recognizers[engine]
        image = None
        for attempt in range(1, ATTEMPTS + 1):
            if self._deadly_pages[source.id] >= DEADLY_PAGES:
                return RecognitionFailed(
                    "Not tried: other pages of this document have ended every replica that tried them."
                )
            if image is None:
                image = self._rasterizer.rasterize.remote(
                    source.id, source.data, source.password, number, asked.dpi, owner=source.owner
                )
            try:
                result = await self._answer(
                    recognizer.recognize.remote(image, asked.options, source.id, source.owner), engine
                )
                if not isinstance(result, EngineFailed) or attempt == ATTEMPTS or not self._is_ready(engine):
                    return result
                # This replica cannot load its engine, but another one could.
                lost = "a try to a replica without an engine"
            except BackPressureError:  # where a Serve config sets max_queued_requests
                return QueueFull(retry_after_s=BUSY_RETRY_AFTER_S)
            except DeploymentUnavailableError:
                log.error("the deployment of engine %s has failed; `serve status` tells why", engine)
                return EngineFailed(retry_after_s=BUSY_RETRY_AFTER_S)
            except RayActorError:
                lost = "its recognizer"  # the pixels are still there
            except (RayTaskError, RayServeException, ObjectLostError) as error:
                if not _pixels_lost(error):
                    raise
                lost = "its pixels, with a rasterizer or a node"
                image = None
            log.warning("a page lost %s (try %d of %d)", lost, attempt, ATTEMPTS)
            await asyncio.sleep(RETRY_PAUSE_S * attempt)
        self._deadly_pages[source.id] += 1
        return RecognitionFailed("The page could not be recognized: every replica that tried it died.")

    async def _answer(self, response: Any, engine: str) -> PageResult | ServiceError:
        """The recognizer's answer, which Serve would wait for without end where there is no replica."""
        waiting: asyncio.Future[PageResult | ServiceError] = asyncio.ensure_future(response)
        wait_s = 0 if engine in self._fallbacks else self._engine_wait_s
        missing_since = None
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                now = time.monotonic()
                missing_since = None if self._has_replicas(engine) else missing_since or now
                if missing_since is not None and now - missing_since >= wait_s:
                    return EngineLoading(retry_after_s=BUSY_RETRY_AFTER_S)
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.add_done_callback(_looked_at)
                waiting.cancel()
                response.cancel()  # Serve would go on with it


def _looked_at(done: asyncio.Future[Any]) -> None:
    """Nobody is left to hear how it ends, and asyncio is not to warn of that."""
    if not done.cancelled():
        done.exception()


def _stood_in(result: PageResult | ServiceError, unavailable: ServiceError) -> PageResult | ServiceError:
    """What the fallback engine made of a page, with the reason why it was asked."""
    if isinstance(result, ServiceError):
        # Where the fallback cannot either, the engine that was asked for is what the client waits for.
        return unavailable if isinstance(result, ENGINE_UNAVAILABLE) else result
    result.page.degraded = True
    result.page.warnings.append(
        ErrorInfo(code="fallback_engine", message=f"Read by the fallback engine: {unavailable.message}")
    )
    return result


def _pixels_lost(error: RayTaskError | RayServeException | ObjectLostError) -> bool:
    """Whether a call failed because its argument, the rasterizer's answer, died with its process.

    Ray says so in the task's cause where the recognizer noticed, Serve in its own where the router did.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return isinstance(error, ObjectLostError) or isinstance(cause, RayActorError | ObjectLostError)
