"""The queue of an engine. Whenever the engine is free, it gets the waiting items, up to its largest batch.

No timer closes a batch. While the engine works the queue grows, so the batch size follows the load, and a lone page
never waits for others. `@serve.batch` instead closes a batch while the previous one still runs
(compare them with `python -m benchmarks batching`).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serve_app.scheduling.fair_queue import FairQueue

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """The result of one item, with the time it waited and the time its batch ran, in ms."""

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
    """Collects items of many callers into batches for `run`, in the order of FairQueue.

    `run` gets 1..max_batch items and returns exactly one result per item, in order. It returns the error of a single
    item as that item's result; an exception that it raises goes to every caller of the batch. An item is dropped if
    its caller is cancelled while it waits.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Coroutine[Any, Any, Sequence[Result]]],
        *,
        max_batch: int,
        wait_until_ready: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`wait_until_ready` is awaited before each batch; until it returns, items stay in the queue."""
        self._run = run
        self._wait_until_ready = wait_until_ready
        self._max_batch = max_batch
        self._queue: FairQueue[_Waiting[Item, Result]] = FairQueue()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return the number of waiting items, without those of the running batch."""
        return len(self._queue)

    async def submit(self, item: Item, *, caller: str = "", owner: str = "") -> Batched[Result]:
        """Queue an item and wait for its result. Raises whatever `run` raises."""
        if self._worker is None or self._worker.done():
            # An empty context: otherwise the worker would log this request's id for ever.
            self._worker = asyncio.create_task(self._work(), name="batch-queue", context=contextvars.Context())
        waiting = _Waiting[Item, Result](
            item,
            asyncio.get_running_loop().create_future(),
            time.perf_counter(),
            contextvars.copy_context(),
        )
        self._queue.push(waiting, owner=owner, caller=caller)
        self._arrived.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            self._queue.remove(waiting, owner=owner, caller=caller)
            raise

    async def close(self) -> None:
        """Stop. Waiting callers are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
        for waiting in self._queue:
            waiting.future.cancel()
        self._queue.clear()

    async def _work(self) -> None:
        while True:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            if self._wait_until_ready is not None:
                await self._wait_until_ready()
                if not self._queue:  # all callers were cancelled meanwhile
                    continue
            batch = self._queue.pop_batch(self._max_batch)
            await self._run_batch(batch)
            del batch  # frees its pages before the next batch

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            # A lone item runs in its caller's context; a larger batch has no single caller.
            context = batch[0].context if len(batch) == 1 else contextvars.copy_context()
            run = self._run([waiting.item for waiting in batch])
            results = await asyncio.create_task(run, context=context)
            if len(results) != len(batch):
                raise RuntimeError(f"a batch of {len(batch)} items returned {len(results)} results")
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
