"""Wires the services that the ingress and jobs share: documents, engines, and the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.serve.handle import DeploymentHandle

from serve_app.metrics.catalogue import ENGINE_UP, STORE_UP
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.results import Results
from serve_app.pipeline.window_limits import WindowLimits
from serve_app.recognition.engine_monitor import EngineMonitor
from serve_app.recognition.engine_state import EnginePhase
from serve_app.runtime.broadcast import with_own_router
from serve_app.runtime.mapped_file import FileContent
from serve_app.runtime.temp_dir import use_temp_dir
from serve_app.settings import EngineSettings, Limits, Secrets, Settings, resolve
from serve_app.storage import Store, open_store
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.sender import IsGone, SpoolSender
from serve_app.storage.spool import open_spool
from serve_app.storage.spooled_writes import SpooledWrites

MEASURE_S = 5.0
"""Ray exports metrics every ten seconds, and of gauges those that were set meanwhile."""


@dataclass(frozen=True)
class PipelineServices:
    """The services of one replica that reads documents."""

    documents: Documents
    engines: Mapping[str, EngineMonitor]
    store: Store
    store_monitor: StoreMonitor
    writes: SpooledWrites
    temp_dir: Path

    def watches(self, is_gone: IsGone) -> list[Coroutine[Any, Any, None]]:
        """Return coroutines to run in the background while the replica lives. `is_gone`: see SpoolSender."""
        monitors = [*(monitor.run() for monitor in self.engines.values()), self.store_monitor.run(), self._measure()]
        if self.writes.spool is None:
            return monitors
        return [*monitors, SpoolSender(self.writes.spool, self.store, self.store_monitor, is_gone).run()]

    async def _measure(self) -> None:
        """Set the metrics of what is not an event, for ever."""
        while True:
            self.documents.pipeline.measure()
            for engine, monitor in self.engines.items():
                ENGINE_UP.set(not monitor.is_down, engine=engine)
            STORE_UP.set(not self.store_monitor.degraded)
            if self.writes.spool is not None:
                self.writes.spool.measure()
            await asyncio.sleep(MEASURE_S)


@dataclass(frozen=True)
class FileSharing:
    """How a document's file reaches the rasterizers: `share` it once, and `fetch` it where its bytes are needed."""

    share: Callable[[FileContent], Any]
    fetch: Callable[[Any], Awaitable[memoryview]]


def open_services(
    settings: Settings,
    secrets: Secrets,
    rasterizer: DeploymentHandle[Any],
    recognizers: Mapping[str, DeploymentHandle[Any]],
    sharing: FileSharing | None = None,
    *,
    in_line: Callable[[str], int] = lambda engine: 0,
) -> PipelineServices:
    """Open the services of a replica. By default, `sharing` is through Ray's object store. `in_line`: see Pipeline."""
    sharing = sharing or THROUGH_RAY
    limits = settings.limits
    store = open_store(settings.store, secrets)
    store_monitor = StoreMonitor(store)
    writes = SpooledWrites(store, store_monitor, open_spool(settings, store))
    temp_dir = resolve(settings.temp_dir)
    use_temp_dir(temp_dir)
    engines: dict[str, EngineMonitor] = {
        engine.name: EngineMonitor(
            with_own_router(recognizers[engine.name]),
            initial_phase=EnginePhase.INITIALIZING if engine.load == "eager" else EnginePhase.NOT_INITIALIZED,
            from_zero=engine.least_replicas == 0,
        )
        for engine in settings.engines
    }
    windows: dict[str, Callable[[float], int]] = {
        engine.name: engine.window_of_a_replica for engine in settings.engines
    }
    cache = PageCache(store, store_monitor, settings, lambda engine: engines[engine].state.version)
    pipeline = Pipeline(
        rasterizer,
        recognizers,
        cache,
        limits=WindowLimits(
            lambda engine: engines[engine].replicas * windows[engine](engines[engine].page_s),
            limits.queue,
            limits.pages_in_flight,
        ),
        is_ready=lambda engine: engines[engine].is_ready,
        has_replicas=lambda engine: engines[engine].has_replicas,
        engine_wait_s={engine.name: _replica_wait_s(engine, limits) for engine in settings.engines},
        in_line=in_line,
        fallbacks={engine.name: engine.fallback for engine in settings.engines if engine.fallback is not None},
    )
    documents = Documents(
        pipeline,
        Results(store, store_monitor, keep_source=settings.store.keep_source, writes=writes),
        cache,
        limits=limits,
        share=sharing.share,
        fetch=sharing.fetch,
    )
    return PipelineServices(documents, engines, store, store_monitor, writes, temp_dir)


def _replica_wait_s(engine: EngineSettings, limits: Limits) -> float:
    """Return how long a page waits for a replica, in seconds: not at all if a fallback is there at once.

    An engine that starts from zero is the exception: a page that waits is what starts its first replica.
    """
    return 0 if engine.fallback is not None and engine.least_replicas > 0 else limits.engine_wait_s


def _share_through_ray(source: FileContent) -> Any:
    """Put a file into Ray's object store: rasterizers read it without copies, as long as the reference exists."""
    return ray.put(np.frombuffer(source, np.uint8))


async def _fetch_through_ray(shared: Any) -> memoryview:
    """Return the file without copying it."""
    array = await shared
    return memoryview(array)


THROUGH_RAY = FileSharing(_share_through_ray, _fetch_through_ray)
