from __future__ import annotations

import asyncio
import inspect

import pytest

from serve_app.scheduling.few_at_once import FewAtOnce
from tests.support.virtual_time import run_in_virtual_time


class Work:
    def __init__(self) -> None:
        self.running = self.most = self.done = 0

    async def one(self, seconds: float, error: Exception | None = None) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
            self.done += 1
        finally:
            self.running -= 1


def test_a_few_run_at_once_and_all_are_done_at_the_end() -> None:
    work = Work()

    async def run() -> float:
        async with FewAtOnce(3) as few:
            for _ in range(9):
                await few.start(work.one(1))
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(run()) == pytest.approx(3)
    assert (work.most, work.done, work.running) == (3, 9, 0)


def test_the_first_error_ends_the_others_and_nothing_more_is_started() -> None:
    work = Work()

    async def run() -> None:
        async with FewAtOnce(2) as few:
            await few.start(work.one(1, OSError("first")))
            await few.start(work.one(60))
            await few.start(work.one(0))

    with pytest.raises(OSError, match="first"):
        run_in_virtual_time(run())
    assert work.done == work.running == 0


def test_an_error_at_the_end_is_raised() -> None:
    work = Work()

    async def run() -> None:
        async with FewAtOnce(2) as few:
            await few.start(work.one(1))
            await few.start(work.one(2, OSError("last")))

    with pytest.raises(OSError, match="last"):
        run_in_virtual_time(run())
    assert (work.done, work.running) == (1, 0)


def test_work_ends_with_a_block_that_is_cancelled() -> None:
    work = Work()

    async def run() -> None:
        async with FewAtOnce(2) as few:
            await few.start(work.one(60))
            await asyncio.sleep(60)

    async def cancel() -> None:
        task = asyncio.create_task(run())
        await asyncio.sleep(1)
        assert work.running == 1
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    run_in_virtual_time(cancel())
    assert work.done == work.running == 0


def test_work_that_finds_no_room_until_the_end_is_closed() -> None:
    work = Work()
    waiting = work.one(1)

    async def run() -> None:
        async with FewAtOnce(1) as few:
            await few.start(work.one(60))
            async with asyncio.timeout(1):
                await few.start(waiting)

    with pytest.raises(TimeoutError):
        run_in_virtual_time(run())
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED
