"""What a replica measures of its work, for the autoscaler."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve_app.document import PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.errors import RecognitionFailed
from serve_app.raster.deployment import Rasterizer
from serve_app.recognition.engines import PageTask
from serve_app.scheduling.work_meter import BusyClock, WorkMeter
from serve_app.settings import DummySettings, Limits, RasterSettings
from tests.support.pictures import noise_page
from tests.support.recognizer import LocalRecognizer, initialized

IMAGE = PageImage(np.full((20, 20, 3), 255, dtype=np.uint8), number=1, dpi=200, rasterize_ms=1.5)


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        # Only this module's: event loops of other threads would wait for ever.
        monkeypatch.setattr("serve_app.scheduling.work_meter.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def test_a_page_counts_with_those_behind_it_while_it_is_held() -> None:
    meter = WorkMeter(lambda: 0.0)
    with meter.page(behind=2.5), meter.page():
        assert meter.report()["pages"] == 4.5
    assert meter.report()["pages"] == 0


def test_no_pages_are_exactly_none_whatever_was_behind_them() -> None:
    """Otherwise the autoscaler would keep a replica for them."""
    first, second = 1 / 7, 4 / 7
    assert (1 + first) + (1 + second) - (1 + first) - (1 + second) > 0, "what rounding leaves"
    meter = WorkMeter(lambda: 0.0)
    with ExitStack() as later, meter.page(behind=first):
        later.enter_context(meter.page(behind=second))
    assert meter.report()["pages"] == 0


def test_the_mean_of_the_pages_is_over_the_time_since_the_last_report(clock: Time) -> None:
    meter = WorkMeter(lambda: 0.0)
    clock.now += 1
    with meter.page(behind=2):
        clock.now += 3
    clock.now += 1
    assert meter.report()["mean_pages"] == pytest.approx(3 * 3 / 5)
    with meter.page():
        clock.now += 1
        assert meter.report()["mean_pages"] == 1, "a page that is still held counts"
        clock.now += 1
    clock.now += 1
    assert meter.report()["mean_pages"] == pytest.approx(0.5)
    with meter.page():
        clock.now += 60
        meter.started(60)
        clock.now += 1
        assert meter.report()["mean_pages"] == 1, "what came before the start is over"


def test_a_clock_that_lags_for_a_moment_counts_no_work_twice(clock: Time) -> None:
    worked_s = iter([0.0, 10.0, 7.0, 11.0])
    meter = WorkMeter(lambda: next(worked_s))
    for _ in range(2):
        clock.now += 10
        meter.report()
    clock.now += 1
    meter.done()
    assert meter.report()["page_s"] == pytest.approx(11, rel=0.05)


def test_busy_is_the_share_of_the_time_since_the_last_report(clock: Time) -> None:
    busy = BusyClock()
    meter = WorkMeter(lambda: busy.worked_s)
    busy.start()
    clock.now += 1
    busy.stop()
    clock.now += 3
    assert meter.report()["busy"] == pytest.approx(0.25)
    clock.now += 1
    assert meter.report()["busy"] == 0
    busy.start()
    clock.now += 1
    assert meter.report()["busy"] == 1, "work that has not ended counts"


def test_a_page_takes_the_mean_of_the_last_ones(clock: Time) -> None:
    busy = BusyClock()
    meter = WorkMeter(lambda: busy.worked_s)

    def read(seconds: float) -> float:
        busy.start()
        clock.now += seconds
        busy.stop()
        meter.done()
        return meter.report()["page_s"]

    assert meter.report()["page_s"] == 0
    assert read(2) == pytest.approx(2)
    assert read(4) == pytest.approx(3, rel=0.05)
    for _ in range(200):
        latest = read(0.5)
    assert latest == pytest.approx(0.5, rel=0.05), "what is long ago no longer counts"


def test_the_first_page_takes_at_least_as_long_as_it_has_run(clock: Time) -> None:
    busy = BusyClock()
    meter = WorkMeter(lambda: busy.worked_s)
    busy.start()
    clock.now += 40
    assert meter.report()["page_s"] == pytest.approx(40)


def test_who_asks_for_the_time_of_a_page_takes_nothing_from_the_next_report(clock: Time) -> None:
    busy = BusyClock()
    meter = WorkMeter(lambda: busy.worked_s)
    for _ in range(2):
        busy.start()
        clock.now += 2
        busy.stop()
        meter.done()
        assert meter.measure_page_s() == pytest.approx(2)
    clock.now += 4
    told = meter.report()
    assert told["page_s"] == pytest.approx(2) and told["busy"] == pytest.approx(0.5)


async def test_a_recognizer_reports_its_pages_and_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = await initialized(LocalRecognizer, DummySettings(load_s=0.2, max_batch=1), Limits())
    loaded = await recognizer.record_autoscaling_stats()
    assert loaded.pop("start_s") >= 0.2
    assert loaded.pop("busy") < 1, "loading is not work on pages"
    assert loaded == {"pages": 0, "mean_pages": 0, "page_s": 0, "at_once": 1}
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def analyze(tasks: Sequence[PageTask]) -> Sequence[PageTask]:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        return tasks

    monkeypatch.setattr(recognizer._engine, "analyze", analyze)
    options = RecognitionOptions()
    started = time.monotonic()
    calls = [asyncio.create_task(recognizer.recognize(IMAGE, options, "document", behind=3)) for _ in range(3)]
    await begun.wait()
    await asyncio.sleep(0.1)
    await recognizer.record_autoscaling_stats()
    await asyncio.sleep(0.1)
    during = await recognizer.record_autoscaling_stats()
    assert (
        during["pages"] == 12 == pytest.approx(during["mean_pages"])
        and during["busy"] > 0.9
        and during["page_s"] >= 0.1
    )
    go_on.set()
    await asyncio.gather(*calls)
    after = await recognizer.record_autoscaling_stats()
    page_s, all_s = after["page_s"], time.monotonic() - started
    assert after["pages"] == 0 and 0.06 < page_s < all_s / 2, "three pages took about as long as one"
    await recognizer.close()


async def test_a_page_counts_whose_caller_leaves_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the work on it would seem to be that of others."""
    recognizer = await initialized(LocalRecognizer, DummySettings(max_batch=1), Limits())
    begun, go_on = threading.Event(), threading.Event()
    read = recognizer._engine.read

    def slowly(analyzed: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return read(analyzed)

    monkeypatch.setattr(recognizer._engine, "read", slowly)
    leaving = asyncio.create_task(recognizer.recognize(IMAGE, RecognitionOptions(), "document"))
    assert await asyncio.to_thread(begun.wait, 30)
    await asyncio.sleep(0.2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    go_on.set()
    for _ in range(20):
        await recognizer.recognize(IMAGE, RecognitionOptions(), "document")
    assert (await recognizer.record_autoscaling_stats())["page_s"] < 0.05
    await recognizer.close()


def test_of_two_clocks_side_by_side_the_faster_one_counts_whichever_was_ahead() -> None:
    """Loading is in the engine's thread, and may have taken minutes."""
    recognizer: Any = SimpleNamespace(
        _thread=SimpleNamespace(worked_s=0.0), _readers=SimpleNamespace(worked_s=0.0), _clocks=(0.0, 0.0), _worked_s=0.0
    )

    def count(thread_s: float, readers_s: float) -> float:
        recognizer._thread.worked_s, recognizer._readers.worked_s = thread_s, readers_s
        return float(LocalRecognizer._count_work(recognizer))

    assert count(120, 0) == 120, "it has loaded"
    assert count(121, 10) == 130
    assert count(131, 12) == 140
    assert count(130.9, 12) == 140 and count(131, 12) == 140, "a clock may lag for a moment"


async def test_pages_that_fail_count_as_pages_so_that_one_does_not_seem_to_take_ever_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recognizer = await initialized(LocalRecognizer, DummySettings(max_batch=1), Limits())

    def fail(tasks: Sequence[PageTask]) -> Sequence[PageTask]:
        time.sleep(0.02)
        raise ValueError("this engine fails on every page")

    monkeypatch.setattr(recognizer._engine, "analyze", fail)
    for _ in range(10):
        assert isinstance(await recognizer.recognize(IMAGE, RecognitionOptions(), "document"), RecognitionFailed)
    assert 0.02 <= (await recognizer.record_autoscaling_stats())["page_s"] < 0.1
    await recognizer.close()


async def test_a_rasterizer_reports_what_it_decodes(tmp_path: Any) -> None:
    rasterizer = Rasterizer(RasterSettings(), Limits(), str(tmp_path))
    data = np.frombuffer(noise_page(), np.uint8)
    calls = [asyncio.create_task(rasterizer.rasterize(f"document-{n}", data, None, 1, None)) for n in range(3)]
    await asyncio.sleep(0)
    assert (await rasterizer.record_autoscaling_stats())["pages"] == 3
    await asyncio.gather(*calls)
    stats = await rasterizer.record_autoscaling_stats()
    assert stats["pages"] == 0 and stats["busy"] > 0 and stats["page_s"] > 0
