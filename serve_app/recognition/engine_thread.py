"""The one thread in which an engine lives.

Engines hold native state that wants one thread, and an event loop must never block: a replica hands
work to this thread and awaits it. The thread, not the process, steps back in priority, so that the
replica's event loop still answers while the engine has every core.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThreadDead(Exception):
    """The thread ended although nobody stopped it; the replica must be replaced."""


class EngineThread:
    """Runs calls one after another, in order, in a thread of its own.

    `nice` is by how much the thread steps back (0..19, Linux only: elsewhere priority is a process's).
    """

    def __init__(self, name: str, *, nice: int = 0) -> None:
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._nice = nice
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` in the thread. Raises what it raises, or EngineThreadDead."""
        if not self.is_alive:
            raise EngineThreadDead("the engine's thread has ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # The log's request id is in the context.
        self._calls.put((future, contextvars.copy_context().run, (function, *args)))
        return await future

    @property
    def busy_s(self) -> float:
        """How long the current call has been running, in seconds; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Let the thread end after the calls it already has."""
        self._calls.put(None)

    def _run(self) -> None:
        if self._nice and hasattr(os, "setpriority"):
            # On Linux PRIO_PROCESS with a thread id moves that thread alone. Relative to where it stands:
            # Ray may run its workers at a nice of their own, and nobody may step forward.
            thread = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + self._nice)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        while (call := self._calls.get()) is not None:
            future, function, args = call
            self._busy_since = time.monotonic()
            result, failure = None, None
            try:
                result = function(*args)
            except BaseException as error:
                failure = error
            self._busy_since = None
            if failure is not None and not isinstance(failure, Exception):
                # A library called sys.exit(): nothing can be trusted here any more.
                _deliver(future, error=EngineThreadDead(f"the engine's thread was ended by {type(failure).__name__}"))
                return
            _deliver(future, result=result, error=failure)
            # Do not keep the pages of the last batch alive while waiting for the next.
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
