"""A few coroutines at once, of which none outlives the block that started them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any


class FewAtOnce:
    """Runs at most `limit` coroutines at once. An async context manager: leaving it waits for all of them.

    The first error is raised from `start` or at the end. Then, and if the block raises or is cancelled, the others are
    cancelled; all have ended on exit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FewAtOnce:
        return self

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start `work` once there is room for it."""
        try:
            while len(self._tasks) >= self._limit:
                await self._wait_for_one()
        except BaseException:
            work.close()
            raise
        self._tasks.add(asyncio.create_task(work))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._tasks:
                await self._wait_for_one()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait_for_one(self) -> None:
        done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if errors := [error for task in done if (error := task.exception()) is not None]:
            raise errors[0]
