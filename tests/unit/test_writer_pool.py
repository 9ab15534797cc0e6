"""The slots of the processes that write files: how many there are, and whose turn it is."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import QueueFull
from serve_app.outputs.rendering import WriterPool
from serve_app.settings import Limits


class Writing:
    """Files that are being written, by their names, in the order in which they got a slot."""

    def __init__(self, pool: WriterPool) -> None:
        self.pool = pool
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, owner: str) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._write(name, owner))
        await asyncio.sleep(0)

    async def _write(self, name: str, owner: str) -> None:
        async with self.pool.of(owner).slot(1):
            self.begun.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await asyncio.wait({self.tasks[name]})
        await asyncio.sleep(0)


async def test_owners_take_turns() -> None:
    writing = Writing(WriterPool(2, Limits()))
    for number in range(5):
        await writing.start(f"a{number}", "a")
    await writing.start("b", "b")
    assert writing.begun == ["a0", "a1"]
    await writing.end("a0")
    await writing.end("a1")
    assert set(writing.begun[2:]) == {"a2", "b"}, "the file of the other key does not wait for all of the first one's"
    for name in ("a2", "b", "a3", "a4"):
        await writing.end(name)
    assert sorted(writing.begun) == ["a0", "a1", "a2", "a3", "a4", "b"]
    await writing.start("c", "c")
    assert writing.begun[-1] == "c", "every slot is free again"
    await writing.end("c")


@pytest.mark.parametrize("steps", range(4))
async def test_a_caller_who_leaves_takes_no_slot_along(steps: int) -> None:
    """Also one who leaves in the moment in which it gets its slot, so many steps of the event loop after."""
    writing = Writing(WriterPool(1, Limits()))
    for name in ("first", "leaving", "last"):
        await writing.start(name, name)
    writing.ends["first"].set()
    for _ in range(steps):
        await asyncio.sleep(0)
    writing.tasks["leaving"].cancel()
    await asyncio.wait({writing.tasks["leaving"]})
    for _ in range(5):
        await asyncio.sleep(0)
    assert writing.begun[-1] == "last"
    await writing.end("last")
    await writing.start("next", "next")
    assert writing.begun[-1] == "next"
    await writing.end("next")


async def test_without_a_slot_in_time_the_service_is_full() -> None:
    writing = Writing(WriterPool(1, Limits(request_s=0.05)))
    await writing.start("first", "a")
    with pytest.raises(QueueFull):
        async with writing.pool.of("b").slot(1):
            raise AssertionError
    await writing.end("first")
    await writing.start("second", "b")
    assert writing.begun == ["first", "second"]
    await writing.end("second")
