"""The thread that runs an engine.

An engine's native state must stay in one thread, and an event loop must never block: a replica submits calls to this
thread and awaits them. Only the thread lowers its priority, not the process, so the replica's event loop still responds
while the engine uses every core.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from serve_app.scheduling.work_meter import BusyClock

T = TypeVar("T")


class EngineThreadDead(Exception):
    """The thread ended without being stopped. The replica must be replaced."""


class EngineThread:
    """Runs calls in order, one at a time, in a dedicated thread.

    `nice` is added to the thread's niceness (0..19; Linux only, since elsewhere priority belongs to the process).
    """

    def __init__(self, name: str, *, nice: int = 0) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._nice = nice
        self._clock = BusyClock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` in the thread. Raises EngineThreadDead and whatever `function` raises."""
        if not self.is_alive:
            raise EngineThreadDead("the engine's thread has ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # The log's request id is in the context.
        self._calls.put((future, contextvars.copy_context().run, (function, *args)))
        return await future

    @property
    def busy_s(self) -> float:
        """Seconds for which the current call has been running; 0 when idle."""
        return self._clock.busy_s

    @property
    def worked_s(self) -> float:
        """Seconds for which the thread has run calls so far."""
        return self._clock.worked_s

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread after the calls already submitted."""
        self._calls.put(None)

    def _run(self) -> None:
        if self._nice and hasattr(os, "setpriority"):
            # On Linux, PRIO_PROCESS with a thread id changes only that thread. The value is relative, since Ray may
            # start workers with a higher niceness, which an unprivileged process cannot lower.
            thread = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + self._nice)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        while (call := self._calls.get()) is not None:
            future, function, args = call
            self._clock.start()
            result, failure = None, None
            try:
                result = function(*args)
            except BaseException as error:
                failure = error
            self._clock.stop()
            if failure is not None and not isinstance(failure, Exception):
                # A library called sys.exit(): its state can no longer be trusted.
                _deliver(future, error=EngineThreadDead(f"the engine's thread was ended by {type(failure).__name__}"))
                return
            _deliver(future, result=result, error=failure)
            # Free the pages of the last batch before waiting for the next one.
            del call, future, function, args, result, failure


def _deliver(future: asyncio.Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    def settle() -> None:
        if future.done():  # the caller was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
