"""The threads in which an engine reads pages: its own one, or several for an engine that reads many at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from serve_app.document import PageContent
from serve_app.errors import ServiceError
from serve_app.recognition.engine_thread import EngineThread
from serve_app.recognition.engines.engine import Engine
from serve_app.scheduling.batch_queue import Batched


class Readers:
    """Reads `engine.pages_at_once` pages at a time; the next one waits for a thread that is free."""

    def __init__(self, engine: Engine, thread: EngineThread, *, nice: int) -> None:
        """`thread` is the engine's own, which `stop` leaves alone."""
        self._engine = engine
        self._own: list[EngineThread] = []
        if engine.pages_at_once > 1:
            self._own = [
                EngineThread(f"reader-{engine.name}-{n}", nice=nice) for n in range(1, engine.pages_at_once + 1)
            ]
        self._free: asyncio.Queue[EngineThread] = asyncio.Queue()
        for each in self._own or [thread]:
            self._free.put_nowait(each)
        self._waiting = 0
        self._changed = asyncio.Event()

    async def read(self, analyzed: Any) -> Batched[PageContent | ServiceError]:
        """One page. Raises what the engine raises, or EngineThreadDead.

        A thread that works for a caller who has left is free again when it is done, not before.
        """
        waited = time.perf_counter()
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
        return Batched(result, (started - waited) * 1000, (time.perf_counter() - started) * 1000)

    async def room(self) -> None:
        """Return once no analyzed page is waiting for a thread.

        Pages queue before analysis, where fairness applies, not after it. With several threads, the next batch is
        analyzed while they read; an engine of one thread analyzes after it has read.
        """
        await asyncio.sleep(0)  # a caller whose page was just analyzed takes a thread, or waits for one
        while self._waiting or (not self._own and self._free.empty()):
            self._changed.clear()
            await self._changed.wait()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive for thread in self._own)

    @property
    def busy_s(self) -> float:
        """How long the longest of the pages at work has been read, in seconds."""
        return max((thread.busy_s for thread in self._own), default=0.0)

    def stop(self) -> None:
        for thread in self._own:
            thread.stop()

    def _release(self, thread: EngineThread, done: asyncio.Future[Any]) -> None:
        self._free.put_nowait(thread)
        self._changed.set()
        if not done.cancelled():
            done.exception()  # looked at, so that nobody warns of an error whose caller has left
