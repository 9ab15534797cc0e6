"""The queue in front of an engine: whenever the engine is free, take what waits, up to its largest batch.

No timer closes a batch. While the engine works the queue grows, so batches are as large as the load
makes them, and a lone page is never held back. Owners take turns, and so do the callers of each: of a document with
many pages in the queue and one with a single page, the single page is next, and whoever sends ten documents does not
get ten times as much. (Measured against `@serve.batch`, which closes a batch
while the previous one still runs: `python -m benchmarks batching`.)
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """The result of one item, how long it waited for its batch and how long the batch ran (ms)."""

    result: Result
    queue_ms: float
    run_ms: float


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Batched[Result]]
    since: float
    context: contextvars.Context


class BatchQueue(Generic[Item, Result]):
    """Collects items of many callers into batches for `run`.

    `run` gets 1..max_batch items and returns exactly one result for each, in order; an error of one
    item is one of its results. What `run` raises goes to every caller of that batch. An item whose
    caller was cancelled while it waited is dropped and never run.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        room: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`room` returns when the results of another batch can be used; until then its items stay in the queue."""
        self._run = run
        self._room = room
        self._max_batch = max_batch
        # A line for each caller of each owner, whose turn is next first; they are gone with their last item.
        self._lines: OrderedDict[str, OrderedDict[str, deque[_Waiting[Item, Result]]]] = OrderedDict()
        # Whose items the running batch has. They go to the end when the next one begins, not before: who came
        # meanwhile is then before them.
        self._served: list[tuple[str, str]] = []
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Items that wait; those in the running batch do not count."""
        return sum(len(line) for lines in self._lines.values() for line in lines.values())

    async def submit(self, item: Item, *, caller: str = "", owner: str = "") -> Batched[Result]:
        """Wait for a place in a batch, then for its result. Raises what `run` raises.

        `caller`: items of the same one stand in line behind each other, not before those of others. `owner`: of
        callers that share one turn among the owners.
        """
        if self._worker is None or self._worker.done():
            # A context of its own, or its log lines would bear the id of the first request for ever.
            self._worker = asyncio.create_task(self._work(), name="batch-queue", context=contextvars.Context())
        waiting = _Waiting[Item, Result](
            item,
            asyncio.get_running_loop().create_future(),
            time.perf_counter(),
            contextvars.copy_context(),
        )
        line = self._lines.setdefault(owner, OrderedDict()).setdefault(caller, deque())
        line.append(waiting)
        self._arrived.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting in line:
                line.remove(waiting)
                if not line and caller in self._lines.get(owner, ()) and self._lines[owner][caller] is line:
                    self._forget(owner, caller)
            raise

    async def close(self) -> None:
        """Stop; callers that still wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
        for lines in self._lines.values():
            for line in lines.values():
                for waiting in line:
                    waiting.future.cancel()
        self._lines.clear()

    async def _work(self) -> None:
        while True:
            if not self._lines:
                self._arrived.clear()
                await self._arrived.wait()
            if self._room is not None:
                await self._room()
                if not self._lines:  # they left meanwhile
                    continue
            batch = self._next_batch()
            await self._run_batch(batch)
            del batch  # its pages must not stay in memory until the next one

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """One item of each owner in turn, of its callers in turn, and once more around while there is room."""
        for owner, caller in self._served:
            if owner in self._lines:
                self._lines.move_to_end(owner)
                if caller in self._lines[owner]:
                    self._lines[owner].move_to_end(caller)
        self._served = []
        batch: list[_Waiting[Item, Result]] = []
        while self._lines and len(batch) < self._max_batch:
            owner, lines = next(iter(self._lines.items()))
            caller, line = next(iter(lines.items()))
            batch.append(line.popleft())
            self._served.append((owner, caller))
            self._lines.move_to_end(owner)
            if line:
                lines.move_to_end(caller)
            else:
                self._forget(owner, caller)
        return batch

    def _forget(self, owner: str, caller: str) -> None:
        del self._lines[owner][caller]
        if not self._lines[owner]:
            del self._lines[owner]

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            # With one item, whoever runs it knows whose it is; of several callers none is more right than another.
            run = self._run([waiting.item for waiting in batch])
            context = batch[0].context if len(batch) == 1 else contextvars.copy_context()
            results = await asyncio.create_task(_awaited(run), context=context)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items went into a batch and {len(results)} results came out")
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        run_ms = (time.perf_counter() - started) * 1000
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(Batched(result, (started - waiting.since) * 1000, run_ms))


async def _awaited(run: Awaitable[Sequence[Result]]) -> Sequence[Result]:
    return await run
