from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import pytest

from serve_app.recognition.engine_thread import EngineThread, EngineThreadDead


async def test_the_event_loop_goes_on_while_the_engine_works() -> None:
    thread = EngineThread("test")
    work = asyncio.create_task(thread.call(time.sleep, 0.2))
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 10
    thread.stop()


async def test_calls_run_one_after_another_in_one_thread() -> None:
    thread = EngineThread("engine-x")
    names = await asyncio.gather(*(thread.call(lambda: threading.current_thread().name) for _ in range(5)))
    assert set(names) == {"engine-x"}
    thread.stop()


async def test_an_error_reaches_the_caller_and_the_thread_lives_on() -> None:
    thread = EngineThread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    assert await thread.call(lambda: 2) == 2
    assert thread.is_alive
    thread.stop()


async def test_a_library_that_ends_the_thread_is_noticed() -> None:
    thread = EngineThread("test")
    with pytest.raises(EngineThreadDead):
        await thread.call(sys.exit, 1)
    await asyncio.sleep(0.05)
    assert not thread.is_alive
    with pytest.raises(EngineThreadDead):
        await thread.call(lambda: 1)


async def test_a_stuck_call_shows_in_busy_s() -> None:
    thread = EngineThread("test")
    assert thread.busy_s == 0
    release = threading.Event()
    call = asyncio.create_task(thread.call(release.wait))
    await asyncio.sleep(0.1)
    assert thread.busy_s >= 0.09
    release.set()
    await call
    assert thread.busy_s == 0
    thread.stop()


async def test_only_the_engine_thread_steps_back_in_priority() -> None:
    thread = EngineThread("test", nice=7)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    inside = await thread.call(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert inside == before + 7
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    thread.stop()
