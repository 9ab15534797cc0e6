"""The threads in which an engine reads pages: the engine's thread, or several if it reads many pages at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from serve_app.document import PageContent
from serve_app.errors import ServiceError
from serve_app.recognition.engine_thread import EngineThread
from serve_app.recognition.engines.engine import Engine
from serve_app.scheduling.batch_queue import Batched


class ReaderThreads:
    """Reads up to `engine.pages_at_once` pages at a time. Further pages wait for a free thread."""

    def __init__(self, engine: Engine, thread: EngineThread, *, nice: int, on_read: Callable[[], None]) -> None:
        """`thread` is the engine's thread. It reads pages if `pages_at_once` is 1, and `stop` does not stop it.

        `on_read` is called at the end of each read, also if its caller was cancelled meanwhile.
        """
        self._engine = engine
        self._on_read = on_read
        self._extra: list[EngineThread] = []
        if engine.pages_at_once > 1:
            self._extra = [
                EngineThread(f"reader-{engine.name}-{n}", nice=nice) for n in range(1, engine.pages_at_once + 1)
            ]
        self._free: asyncio.Queue[EngineThread] = asyncio.Queue()
        for reader in self._extra or [thread]:
            self._free.put_nowait(reader)
        self._waiting = 0
        self._changed = asyncio.Event()

    async def read(self, analyzed: Any) -> Batched[PageContent | ServiceError]:
        """Read one page. Raises EngineThreadDead and whatever the engine raises.

        If the caller is cancelled, the thread stays busy until its read ends.
        """
        queued = time.perf_counter()
        self._waiting += 1
        try:
            thread = await self._free.get()
        finally:
            self._waiting -= 1
            self._changed.set()
        started = time.perf_counter()
        work = asyncio.ensure_future(thread.call(self._engine.read, analyzed))
        work.add_done_callback(lambda done: self._release(thread, done))
        try:
            result = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._engine.abandon(analyzed)
            raise
        return Batched(result, (started - queued) * 1000, (time.perf_counter() - started) * 1000)

    async def wait_until_ready(self) -> None:
        """Return once no analyzed page is waiting for a thread.

        Pages queue before analysis, where fairness applies, not after it. With several threads, the next batch is
        analyzed while they read; an engine of one thread analyzes after it has read.
        """
        await asyncio.sleep(0)  # lets callers with a freshly analyzed page take a thread, or wait for one
        while self._waiting or (not self._extra and self._free.empty()):
            self._changed.clear()
            await self._changed.wait()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive for thread in self._extra)

    @property
    def busy_s(self) -> float:
        """Seconds for which the longest current read has been running; 0 when idle."""
        return max((thread.busy_s for thread in self._extra), default=0.0)

    @property
    def worked_s(self) -> float:
        """Seconds for which all threads together have read, divided by their number; 0 if the engine's thread reads."""
        return sum(thread.worked_s for thread in self._extra) / max(1, len(self._extra))

    def stop(self) -> None:
        for thread in self._extra:
            thread.stop()

    def _release(self, thread: EngineThread, done: asyncio.Future[Any]) -> None:
        self._on_read()
        self._free.put_nowait(thread)
        self._changed.set()
        if not done.cancelled():
            done.exception()  # retrieved, so asyncio does not warn if the caller was cancelled
