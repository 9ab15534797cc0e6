from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.recognition.engine_thread import EngineThread
from serve_app.scheduling.batch_queue import BatchQueue


class Gate:
    """A `run` for BatchQueue that records its batches and holds each until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()

    async def __call__(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        await self.open.wait()
        return [item.upper() for item in items]


async def test_a_batch_is_cut_only_when_the_engine_is_free() -> None:
    gate = Gate()
    queue = BatchQueue(gate, max_batch=4)
    tasks = [asyncio.create_task(queue.submit("a"))]
    await asyncio.sleep(0.01)
    for item in "bcdefg":
        tasks.append(asyncio.create_task(queue.submit(item)))
    await asyncio.sleep(0.01)
    assert gate.batches == [["a"]], "a lone page goes at once; the others wait for the engine"
    assert len(queue) == 6
    gate.open.set()
    results = await asyncio.gather(*tasks)
    assert gate.batches == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
    assert [r.result for r in results] == list("ABCDEFG")
    await queue.close()


async def test_the_page_of_a_cancelled_caller_is_dropped_and_its_neighbours_are_not() -> None:
    gate = Gate()
    queue = BatchQueue(gate, max_batch=4)
    running, gone, waiting = (asyncio.create_task(queue.submit(item)) for item in "abc")
    await asyncio.sleep(0.01)
    gate.batches.clear()  # a, b and c may have been cut together: start from what waits now
    later = [asyncio.create_task(queue.submit(item)) for item in "xyz"]
    await asyncio.sleep(0.01)
    later[1].cancel()
    await asyncio.sleep(0.01)
    assert len(queue) == 2, "the cancelled page leaves the queue at once, so its pixels are freed"
    gate.open.set()
    await asyncio.gather(running, gone, waiting, later[0], later[2])
    assert gate.batches == [["x", "z"]]
    await queue.close()


async def test_a_caller_cancelled_while_its_batch_runs_does_not_disturb_the_batch() -> None:
    gate = Gate()
    queue = BatchQueue(gate, max_batch=4)
    first, second = (asyncio.create_task(queue.submit(item)) for item in "ab")
    await asyncio.sleep(0.01)
    first.cancel()
    gate.open.set()
    assert (await second).result == "B"
    assert (await queue.submit("c")).result == "C", "and the queue goes on"
    await queue.close()


async def test_an_exception_fails_its_batch_and_not_the_queue() -> None:
    calls = 0

    async def fails_once(items: Sequence[str]) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("engine broke")
        return list(items)

    queue = BatchQueue(fails_once, max_batch=2)
    with pytest.raises(RuntimeError, match="engine broke"):
        await queue.submit("a")
    assert (await queue.submit("b")).result == "b"
    await queue.close()


async def test_an_engine_that_returns_too_few_results_fails_the_batch_instead_of_mixing_pages_up() -> None:
    async def loses_one(items: Sequence[str]) -> list[str]:
        return list(items)[1:]

    queue = BatchQueue(loses_one, max_batch=4)
    with pytest.raises(RuntimeError, match="a batch of 1 items returned 0 results"):
        await queue.submit("a")
    await queue.close()


async def test_queue_and_run_times_are_told_apart() -> None:
    async def slow(items: Sequence[str]) -> list[str]:
        await asyncio.sleep(0.05)
        return list(items)

    queue = BatchQueue(slow, max_batch=1)
    first, second = await asyncio.gather(queue.submit("a"), queue.submit("b"))
    assert first.queue_ms < 20 and first.run_ms >= 49
    assert second.queue_ms >= 45
    await queue.close()


async def test_closing_cancels_those_who_wait() -> None:
    gate = Gate()
    queue = BatchQueue(gate, max_batch=1)
    tasks = [asyncio.create_task(queue.submit(item)) for item in "ab"]
    await asyncio.sleep(0.01)
    await queue.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_a_finished_batch_does_not_stay_in_memory() -> None:
    import gc
    import weakref

    class Page:
        pass

    thread = EngineThread("test")

    async def run(pages: Sequence[Page]) -> Sequence[int]:
        return await thread.call(lambda batch: [1 for _ in batch], pages)

    queue = BatchQueue(run, max_batch=4)
    page = Page()
    alive = weakref.ref(page)
    await queue.submit(page)
    del page
    await asyncio.sleep(0.05)
    gc.collect()
    assert alive() is None
    await queue.close()
    thread.stop()


async def test_callers_take_turns_whatever_one_of_them_has_in_the_queue() -> None:
    order: list[str] = []
    go = asyncio.Event()

    async def run(items: Sequence[str]) -> list[str]:
        await go.wait()
        order.extend(items)
        return list(items)

    queue = BatchQueue(run, max_batch=1)
    many = [asyncio.create_task(queue.submit(f"book {n}", caller="book")) for n in range(1, 6)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(queue.submit(name, caller=name)) for name in ("letter", "bill")]
    await asyncio.sleep(0)
    gone = asyncio.create_task(queue.submit("gone", caller="gone"))
    await asyncio.sleep(0)
    gone.cancel()
    go.set()
    await asyncio.gather(*many, *others)
    assert order == ["book 1", "letter", "bill", "book 2", "book 3", "book 4", "book 5"]
    await queue.close()
