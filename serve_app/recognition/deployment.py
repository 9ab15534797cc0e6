"""The Recognizer: one deployment per configured engine, one engine per replica."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pydantic import SecretStr

from serve_app.document import EngineInfo, ErrorInfo, NativePage, PageContent, PageImage, PageResult
from serve_app.document.options import RecognitionOptions, Restructuring
from serve_app.document.outline import BlockChange, PageOutline
from serve_app.document.warnings import WarningCode, warning
from serve_app.errors import EngineFailed, EngineLoading, RecognitionFailed, ServiceError, VlmServerAway
from serve_app.metrics.catalogue import BATCH_PAGES
from serve_app.recognition.engine_metrics import EngineMetrics
from serve_app.recognition.engine_state import EnginePhase, EngineState
from serve_app.recognition.engine_thread import EngineThread, EngineThreadDead
from serve_app.recognition.engines import create_engine
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.recognition.memory_limit import MemoryLimit
from serve_app.recognition.overlay import overlay_figure, picture_figure
from serve_app.recognition.reader_threads import ReaderThreads
from serve_app.recognition.replica_context import max_replicas, others_run, replica_id
from serve_app.runtime import tracing
from serve_app.runtime.serve_log import set_up_log
from serve_app.scheduling.batch_queue import Batched, BatchQueue
from serve_app.scheduling.work_meter import WorkMeter
from serve_app.settings import EngineSettings, Limits

log = logging.getLogger("ray.serve.recognizer")

LOAD_RETRY_S = 30


class Recognizer:
    """Runs one engine with its threads and its queue of pages."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: EngineSettings,
        limits: Limits,
        vlm_api_key: SecretStr | None = None,
        *,
        load_retry_s: float = LOAD_RETRY_S,
    ) -> None:
        """`load_retry_s`: pause after a failed load, in seconds."""
        set_up_log()
        self._load_retry_s = load_retry_s
        self._limits = limits
        self._has_fallback = settings.fallback is not None
        self._engine: Engine = create_engine(
            settings,
            page_s=limits.page_s,
            vlm_api_key=vlm_api_key.get_secret_value() if vlm_api_key else None,
        )
        # Until a caller has counted the replicas. So one that starts takes little before the others give up their part.
        self._engine.share_vlm_server(max_replicas())
        self._thread = EngineThread(f"engine-{self._engine.name}", nice=settings.nice)
        # A page whose caller leaves while it is read takes the engine as long, and counts too.
        self._readers = ReaderThreads(self._engine, self._thread, nice=settings.nice, on_read=lambda: self._work.done())
        self._queue: BatchQueue[PageTask, Any | ServiceError] = BatchQueue(
            self._analyze, max_batch=self._engine.max_batch, wait_until_ready=self._readers.wait_until_ready
        )
        # Analyzing and reading overlap if the engine has threads for both; the slower of the two sets the pace.
        self._clocks = 0.0, 0.0
        self._worked_s = 0.0
        self._work = WorkMeter(self._count_work, at_once=self._engine.pages_at_once)
        self._metrics = EngineMetrics(self._engine)
        self._memory = MemoryLimit(settings, self._engine)
        self._set_phase(EnginePhase.NOT_INITIALIZED)
        self._reason: str | None = None
        self._settled = asyncio.Event()  # set once a load has succeeded or failed
        self._loading: asyncio.Task[None] | None = None
        if settings.load == "eager":
            self._start_loading()
            await self._start(settings.warm_up_s)

    async def _start(self, warm_up_s: float) -> None:
        """Wait until the engine is loaded, since the replica counts as started when this returns.

        An update then swaps in a ready engine. While others of this deployment run, one whose engine cannot load raises
        EngineLoadError: they go on, and Serve tries again. Alone it starts anyway, also after `warm_up_s`, and its state
        gives the reason.
        """
        is_beside_others = await asyncio.to_thread(others_run)
        await self._wait_until_settled(None if is_beside_others else warm_up_s)
        if is_beside_others and self._phase is EnginePhase.FAILED:
            raise EngineLoadError(f"engine {self._engine.name} could not be loaded: {self._reason}")

    async def recognize(
        self,
        image: PageImage | ServiceError,
        options: RecognitionOptions,
        document: str,
        owner: str = "",
        behind: float = 0.0,
    ) -> PageResult | ServiceError:
        """Recognize one page. Returns errors as values (see errors.py).

        `image` may be the rasterizer's error, which is returned unchanged: the pipeline forwards the
        rasterizer's response without waiting for it. `document` is the document's id; `owner` is the key's name.
        `behind` is this call's share of the pages that wait at its caller for this engine: autoscaling counts them.
        """
        if isinstance(image, ServiceError):
            return image
        with self._work.page(behind):
            if (unavailable := await self._unavailable()) is not None:
                return unavailable
            return await self._recognize(image, options, document, owner)

    async def _recognize(
        self, image: PageImage, options: RecognitionOptions, document: str, owner: str
    ) -> PageResult | ServiceError:
        analyzed = None
        try:
            analyzed = await self._queue.submit(PageTask(image, options), caller=document, owner=owner)
            self._trace("analyze", analyzed, image.number)
            if isinstance(analyzed.result, ServiceError):
                self._work.done()
                return analyzed.result
            read = await self._readers.read(analyzed.result)
            self._trace("recognize", read, image.number)
        except EngineThreadDead as error:
            self._die(str(error))
        except Exception:
            log.exception("engine %s failed", self._engine.name)
            if analyzed is None:
                self._work.done()
            return RecognitionFailed()
        if isinstance(read.result, ServiceError):
            return read.result
        content = _with_warnings(read.result, image.warnings)
        if options.overlay or options.picture:
            content = await self._with_pictures(content, image, options)
        return PageResult(
            content=content,
            engine=EngineInfo(name=self._engine.name, version=self._engine.version),
            timings_ms={
                "rasterize": image.rasterize_ms,
                "queue": analyzed.queue_ms + read.queue_ms,
                "analyze": analyzed.run_ms,
                "recognize": read.run_ms,
            },
        )

    def _trace(self, name: str, ended: Batched[Any], page: int) -> None:
        """Trace a stage that has just ended, and its queue."""
        queue_s, run_s = ended.queue_ms / 1000, ended.run_ms / 1000
        tracing.past_stage("queue", queue_s, ended_s=run_s, page=page, engine=self._engine.name)
        tracing.past_stage(name, run_s, page=page, engine=self._engine.name)

    async def _with_pictures(self, content: PageContent, image: PageImage, options: RecognitionOptions) -> PageContent:
        figures = []
        try:
            if options.overlay:
                figures.append(await asyncio.to_thread(overlay_figure, image.pixels, content.page, image.number))
            if options.picture:
                figures.append(await asyncio.to_thread(picture_figure, image.pixels, image.number))
        except Exception:
            log.exception("could not draw the picture of page %d", image.number)
            not_drawn = warning(WarningCode.NO_OVERLAY, "The picture of this page could not be drawn.")
            page = content.page.model_copy(update={"warnings": [*content.page.warnings, not_drawn]})
            return replace(content, page=page)
        return replace(content, figures=(*content.figures, *figures))

    async def restructure(
        self, pages: Sequence[PageOutline], options: RecognitionOptions
    ) -> list[BlockChange] | ServiceError:
        """Return the changes that join the pages of one document: heading levels, tables across pages.

        That needs no loaded engine.
        """
        try:
            return await asyncio.to_thread(self._engine.restructure, pages, options)
        except Exception:
            log.exception("engine %s failed to analyze the structure of a document", self._engine.name)
            return RecognitionFailed()

    async def restructure_pages(
        self, pages: Sequence[NativePage], options: Restructuring
    ) -> list[NativePage] | ServiceError:
        """Restructure the pages of a document, in the engine's native form."""
        if (unavailable := await self._unavailable()) is not None and not isinstance(unavailable, VlmServerAway):
            return unavailable
        try:
            return await asyncio.to_thread(self._engine.restructure_pages, pages, options)
        except ServiceError as error:
            return error
        except Exception:
            log.exception("engine %s failed to restructure pages", self._engine.name)
            return RecognitionFailed("The pages could not be restructured.")

    async def state(self, replicas: int | None = None) -> EngineState:
        """Return the state of this replica's engine.

        `replicas`: how many the caller knows to run. They share the engine's inference server, and do not know of each other.
        """
        if replicas:
            self._engine.share_vlm_server(replicas)
        return EngineState(
            replica=replica_id(),
            phase=self._phase,
            version=self._engine.version if self._phase is EnginePhase.INITIALIZED else None,
            reason=self._reason,
            vlm_server=self._engine.vlm_server() if self._phase is EnginePhase.INITIALIZED else None,
            page_s=self._work.measure_page_s(),
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Measure the work here, for Serve's autoscaler: see WorkMeter.report."""
        return self._work.report()

    def _count_work(self) -> float:
        """Return the seconds for which this replica has worked. Of two clocks that run side by side, the faster one counts."""
        before = self._clocks
        # A clock that another thread is stopping lags behind for a moment.
        self._clocks = max(self._thread.worked_s, before[0]), max(self._readers.worked_s, before[1])
        self._worked_s += max(now - then for now, then in zip(self._clocks, before, strict=True))
        return self._worked_s

    def _set_phase(self, phase: EnginePhase) -> None:
        self._phase = phase
        self._measure()

    def _measure(self) -> None:
        self._metrics.measure(self._phase, load_s=self._work.start_s, worked_s=self._count_work())

    def check_health(self) -> None:
        """Check the replica, every `health_check_s` seconds, for Serve. Raises MemoryLimitPassed.

        If this raises, Serve sends the replica no more requests, lets it finish and replaces it. That suits a
        replica that has grown too large. If the engine is dead or stuck, the process exits instead: Serve would
        wait for the stuck page, whereas after an exit the callers retry their pages at once.
        """
        self._measure()
        limit_s = 2 * self._limits.page_s
        if not self._thread.is_alive or not self._readers.is_alive:
            self._die("a thread of the engine has ended")
        if self._phase is not EnginePhase.INITIALIZED:
            return  # loading has no time limit; a page has one
        busy_s = max(self._thread.busy_s, self._readers.busy_s)
        if busy_s > limit_s:
            self._die(f"a batch or a page has been running for {busy_s:.0f} s (limit {limit_s:.0f} s)")
        self._memory.check()

    def _die(self, reason: str) -> NoReturn:
        log.critical("engine %s: %s; this replica exits and will be replaced", self._engine.name, reason)
        logging.shutdown()
        os._exit(1)  # a normal exit would wait for a thread that hangs in native code

    async def __del__(self) -> None:
        """Release the engine and its threads. Serve awaits this when it stops the replica."""
        if self._loading is not None:
            self._loading.cancel()
        await self._queue.close()
        self._readers.stop()
        with contextlib.suppress(EngineThreadDead):
            await self._thread.call(self._engine.close)
        self._thread.stop()

    async def _unavailable(self) -> ServiceError | None:
        self._start_loading()
        # With a fallback engine, no page waits for this one to load.
        if await self._wait_until_settled(0 if self._has_fallback else self._limits.engine_wait_s):
            return self._engine.unavailable()
        if self._phase is EnginePhase.FAILED:
            return EngineFailed(
                f"The OCR engine could not be loaded: {self._reason}", retry_after_s=math.ceil(self._load_retry_s)
            )
        return EngineLoading(retry_after_s=10)

    async def _wait_until_settled(self, timeout_s: float | None) -> bool:
        """Wait until a load has succeeded or failed; with None, as long as that takes. Return whether the engine is loaded."""
        if not self._settled.is_set():  # with a timeout of 0, wait_for() would not check
            try:
                await asyncio.wait_for(self._settled.wait(), timeout_s)
            except TimeoutError:
                return False
        return self._phase is EnginePhase.INITIALIZED

    def _start_loading(self) -> None:
        if self._loading is None:
            self._set_phase(EnginePhase.INITIALIZING)
            self._loading = asyncio.create_task(self._load(), name="load-engine", context=contextvars.Context())

    async def _load(self) -> None:
        """Load the engine. Retry after each failure, since the operator may fix the cause meanwhile."""
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
            if reason is None:
                load_s = time.perf_counter() - started
                self._work.started(load_s)
                self._metrics.loaded(self._count_work())
            self._set_phase(EnginePhase.FAILED if reason else EnginePhase.INITIALIZED)
            self._settled.set()
            if reason is None:
                log.info("engine %s %s loaded in %.1f s", self._engine.name, self._engine.version, load_s)
                self._memory.drop_exceeded()
                return
            await asyncio.sleep(self._load_retry_s)

    async def _analyze(self, tasks: Sequence[PageTask]) -> Sequence[Any | ServiceError]:
        BATCH_PAGES.observe(len(tasks), engine=self._engine.name)
        return await self._thread.call(self._engine.analyze, tasks)


def _with_warnings(content: PageContent, warnings: Sequence[ErrorInfo]) -> PageContent:
    if not warnings:
        return content
    changes = {"degraded": True, "warnings": [*content.page.warnings, *warnings]}
    return replace(content, page=content.page.model_copy(update=changes))
