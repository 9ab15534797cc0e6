"""The Recognizer: one deployment for each configured engine, one engine in each replica."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from ray import serve

from serve_app.document import EngineInfo, Page, PageImage, PageResult, RecognitionOptions
from serve_app.errors import EngineFailed, EngineLoading, RecognitionFailed, ServiceError
from serve_app.recognition.batching import BatchQueue
from serve_app.recognition.engine_thread import EngineThread, EngineThreadDead
from serve_app.recognition.engines import create_engine
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.settings import EngineSettings, Limits

log = logging.getLogger("ray.serve.recognizer")

LOAD_RETRY_S = 30
# A replica that has loaded counts as started, so a rolling update replaces an engine by a ready one.
# One that takes longer than this, or fails, starts all the same and says so in its state.
WARM_UP_S = 20


class EnginePhase(StrEnum):
    """Contract 1's words for `paddleocr` in /health."""

    NOT_INITIALIZED = "not_initialized"
    INITIALIZING = "initializing"
    INITIALIZED = "initialized"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineState:
    """What a replica says of its engine; `reason` is set where `phase` is FAILED."""

    replica: str
    phase: EnginePhase
    version: str | None = None
    reason: str | None = None


class Recognizer:
    """Holds an engine, its thread and the queue of pages in front of it."""

    async def __init__(self, settings: EngineSettings, limits: Limits) -> None:  # type: ignore[misc]  # Serve awaits it
        self._limits = limits
        self._engine: Engine = create_engine(settings, page_s=limits.page_s)
        self._thread = EngineThread(f"engine-{self._engine.name}", nice=settings.nice)
        self._queue: BatchQueue[PageTask, Page | ServiceError] = BatchQueue(
            self._run_batch, max_batch=self._engine.max_batch
        )
        self._phase = EnginePhase.NOT_INITIALIZED
        self._reason: str | None = None
        self._settled = asyncio.Event()  # the engine is loaded, or its last try failed
        self._loading: asyncio.Task[None] | None = None
        if settings.load == "eager":
            self._start_loading()
            await self._wait_until_settled(WARM_UP_S)

    async def recognize(
        self, image: PageImage | ServiceError, options: RecognitionOptions
    ) -> PageResult | ServiceError:
        """Recognize one page. Errors come back as values (see errors.py).

        `image` may be the rasterizer's error, which passes through: the pipeline hands the
        rasterizer's response on without looking at it.
        """
        if isinstance(image, ServiceError):
            return image
        if (unavailable := await self._unavailable()) is not None:
            return unavailable
        try:
            batched = await self._queue.submit(PageTask(image, options))
        except EngineThreadDead as error:
            self._die(str(error))
        except Exception:
            log.exception("engine %s failed on a batch", self._engine.name)
            return RecognitionFailed()
        if isinstance(batched.result, ServiceError):
            return batched.result
        return PageResult(
            page=batched.result,
            engine=EngineInfo(name=self._engine.name, version=self._engine.version),
            timings_ms={
                "rasterize": image.rasterize_ms,
                "queue": batched.queue_ms,
                "recognize": batched.run_ms,
            },
        )

    async def state(self) -> EngineState:
        return EngineState(
            replica=serve.get_replica_context().replica_id.unique_id,
            phase=self._phase,
            version=self._engine.version if self._phase is EnginePhase.INITIALIZED else None,
            reason=self._reason,
        )

    def check_health(self) -> None:
        """Called by Serve every `health_check_s`: a replica whose engine is dead or stuck ends itself.

        Raising would have Serve wait for the stuck page first; this way the pages that are here are
        sent again by their callers at once, and Serve starts another replica.
        """
        # Loading may take as long as it takes; a batch may not.
        limit_s = 2 * self._limits.page_s * self._engine.max_batch
        if not self._thread.is_alive:
            self._die("the engine's thread has ended")
        if self._phase is EnginePhase.INITIALIZED and self._thread.busy_s > limit_s:
            self._die(f"a batch has been running for {self._thread.busy_s:.0f} s (limit {limit_s:.0f} s)")

    def _die(self, reason: str) -> NoReturn:
        log.critical("engine %s: %s; this replica ends and is replaced", self._engine.name, reason)
        logging.shutdown()
        os._exit(1)  # nothing gentler gets past a thread that hangs in native code

    async def __del__(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
        await self._queue.close()
        with contextlib.suppress(EngineThreadDead):
            await self._thread.call(self._engine.close)
        self._thread.stop()

    async def _unavailable(self) -> ServiceError | None:
        self._start_loading()
        if await self._wait_until_settled(self._limits.engine_wait_s):
            return None
        if self._phase is EnginePhase.FAILED:
            return EngineFailed(f"The OCR engine could not be loaded: {self._reason}", retry_after_s=LOAD_RETRY_S)
        return EngineLoading(retry_after_s=10)

    async def _wait_until_settled(self, timeout_s: float) -> bool:
        """Wait for the engine to be loaded, or to fail; True if it is loaded."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout_s)
        except TimeoutError:
            return False
        return self._phase is EnginePhase.INITIALIZED

    def _start_loading(self) -> None:
        if self._loading is None:
            self._phase = EnginePhase.INITIALIZING
            self._loading = asyncio.create_task(self._load(), name="load-engine", context=contextvars.Context())

    async def _load(self) -> None:
        """Load the engine; after a failure, again and again: what is missing may be mended meanwhile."""
        while True:
            started = time.perf_counter()
            reason = None
            try:
                await self._thread.call(self._engine.load)
            except EngineLoadError as error:
                reason = str(error)
                if reason != self._reason:
                    log.error("engine %s could not be loaded: %s", self._engine.name, reason)
            except Exception:
                reason = "an unexpected error; the log has the details"
                if reason != self._reason:
                    log.exception("engine %s could not be loaded", self._engine.name)
            self._reason = reason
            self._phase = EnginePhase.FAILED if reason else EnginePhase.INITIALIZED
            self._settled.set()
            if reason is None:
                log.info(
                    "engine %s %s loaded in %.1f s",
                    self._engine.name, self._engine.version, time.perf_counter() - started,
                )  # fmt: skip
                return
            await asyncio.sleep(LOAD_RETRY_S)

    async def _run_batch(self, tasks: Sequence[PageTask]) -> Sequence[Page | ServiceError]:
        return await self._thread.call(self._engine.recognize, tasks)
