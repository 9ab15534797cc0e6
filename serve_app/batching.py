"""The queue in front of an engine: whenever the engine is free, take what waits, up to its largest batch.

No timer closes a batch. While the engine works the queue grows, so batches are as large as the load
makes them, and a lone page is never held back. Callers take turns: of a document with many pages in the
queue and one with a single page, the single page is next. (Measured against `@serve.batch`, which closes a batch
while the previous one still runs: `python -m benchmarks batching`.)
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
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
    caller: str
    turn: float
    arrival: int

    def __lt__(self, other: _Waiting[Item, Result]) -> bool:
        return (self.turn, self.arrival) < (other.turn, other.arrival)


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
        self._waiting: list[_Waiting[Item, Result]] = []  # a heap
        # Weighted fair queueing with items of cost 1: each item of a caller has a turn after its last one's, and
        # whoever comes anew has the turn of those that were taken last. A turn is over when each caller has had one
        # item of its own: so newcomers without end do not keep the second page of a document waiting for ever.
        self._turn = 0.0
        self._next_turns: dict[str, float] = {}
        self._arrivals = itertools.count()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Items that wait; those in the running batch do not count."""
        return len(self._waiting)

    async def submit(self, item: Item, *, caller: str = "") -> Batched[Result]:
        """Wait for a place in a batch, then for its result. Raises what `run` raises.

        `caller`: items of the same one stand in line behind each other, not before those of others.
        """
        if self._worker is None or self._worker.done():
            # A context of its own, or its log lines would bear the id of the first request for ever.
            self._worker = asyncio.create_task(self._work(), name="batch-queue", context=contextvars.Context())
        waiting = _Waiting[Item, Result](
            item,
            asyncio.get_running_loop().create_future(),
            time.perf_counter(),
            contextvars.copy_context(),
            caller,
            turn=max(self._turn, self._next_turns.get(caller, 0)),
            arrival=next(self._arrivals),
        )
        self._next_turns[caller] = waiting.turn + 1
        heapq.heappush(self._waiting, waiting)
        self._arrived.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
            raise

    async def close(self) -> None:
        """Stop; callers that still wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
        while self._waiting:
            self._waiting.pop().future.cancel()

    async def _work(self) -> None:
        served = 0.0  # turns that the last batch took, which are over when the next one begins
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            if self._room is not None:
                await self._room()
                if not self._waiting:  # they left meanwhile
                    continue
            self._turn += served
            self._next_turns = {caller: turn for caller, turn in self._next_turns.items() if turn > self._turn}
            callers = len({waiting.caller for waiting in self._waiting})
            batch = [heapq.heappop(self._waiting) for _ in range(min(len(self._waiting), self._max_batch))]
            served = len(batch) / callers
            await self._run_batch(batch)
            del batch  # its pages must not stay in memory until the next one

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
