"""Timings of a request, stage by stage."""

from __future__ import annotations

import time

import pytest

from serve_app.pipeline.timings import Timings


def test_stages_of_pages_add_up_and_are_rounded() -> None:
    timings = Timings()
    timings.add({"queue": 1.04, "recognize": 10.0})
    timings.add({"recognize": 2.55})
    assert timings.stages_ms() == {"queue": 1.0, "recognize": 12.6}


def test_a_block_is_measured_unless_it_fails() -> None:
    timings = Timings()
    with timings.measure("fetch"):
        time.sleep(0.02)
    with pytest.raises(ZeroDivisionError), timings.measure("restructure"):
        raise ZeroDivisionError
    assert timings.stages_ms().keys() == {"fetch"} and timings.stages_ms()["fetch"] >= 20


def test_time_counts_from_the_start_of_the_request() -> None:
    timings = Timings(started=time.perf_counter() - 5)
    timings.add_elapsed("receive")
    assert 5000 <= timings.stages_ms()["receive"] <= timings.elapsed_ms < 6000
    assert 5 <= timings.elapsed_s < 6
