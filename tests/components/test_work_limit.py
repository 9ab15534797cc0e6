"""The time limit of a child's work does not count the time in which other processes had the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve_app.runtime.work_limit import LONGEST, WorkLimit

SPIN = "while True: pass"


@contextmanager
def children(*codes: str) -> Iterator[list[int]]:
    """Processes that share one CPU; yields their ids."""
    cpu = min(os.sched_getaffinity(0))
    running = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in codes]
    try:
        for process in running:
            os.sched_setaffinity(process.pid, [cpu])
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def counted(limit: WorkLimit, started: float) -> float:
    """The share of the time since then that was counted."""
    return (limit.seconds - limit.left()) / (time.monotonic() - started)


def test_time_in_line_for_a_cpu_is_not_counted() -> None:
    with children(*[SPIN] * 4) as (worker, *_):
        limit, started = WorkLimit(1000), time.monotonic()
        limit.watch(worker)
        until = started + 60
        while time.monotonic() < started + 1 or counted(limit, started) > 0.5:
            assert time.monotonic() < until, "a process that gets a quarter of a CPU is charged for more than half"
            time.sleep(0.1)


def test_waiting_is_counted() -> None:
    with children("import time; time.sleep(600)") as (sleeper,):
        time.sleep(0.5)  # its start may stand in line
        limit = WorkLimit(0.5)
        limit.watch(sleeper)
        time.sleep(0.5 * LONGEST)
        assert limit.left() <= 0


def test_work_ends_at_a_multiple_of_its_limit_however_long_it_stands_in_line() -> None:
    with children(*[SPIN] * 8) as (worker, *_):
        limit = WorkLimit(0.2)
        limit.watch(worker)
        time.sleep(0.2 * LONGEST)
        assert limit.left() <= 0


@pytest.mark.parametrize("children_before", [0, 1])
def test_without_a_process_all_time_counts(children_before: int) -> None:
    started = time.monotonic()
    limit = WorkLimit(100)
    for _ in range(children_before):
        with children("pass") as (gone,):
            pass
        limit.watch(gone)
    assert limit.left() <= 100 - (time.monotonic() - started) + 0.1


def test_a_limit_spans_the_children_that_try_one_after_another() -> None:
    started = time.monotonic()
    limit = WorkLimit(1000)
    for _ in range(2):
        with children(*[SPIN] * 4) as (worker, *_):
            limit.watch(worker)
            time.sleep(1)
            limit.left()
    shared = 1000 - limit.left()
    assert shared < 0.7 * (time.monotonic() - started)
