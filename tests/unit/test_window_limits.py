"""How many documents and pages may be in progress, by replicas and settings."""

from __future__ import annotations

import pytest

from serve_app.pipeline.window_limits import LEAST_DOCUMENTS, LEAST_PAGES, WindowLimits
from serve_app.settings import DummySettings, EngineSettings, PaddleOcrVlSettings, TesseractSettings


def test_limits_follow_the_capacity_and_never_fall_below_what_brings_the_first_replica() -> None:
    capacity = {"a": 0, "b": 0}
    limits = WindowLimits(lambda engine: capacity[engine])
    assert (limits.documents(capacity), limits.pages("a"), limits.pages("b")) == (
        LEAST_DOCUMENTS,
        LEAST_PAGES,
        LEAST_PAGES,
    )
    capacity["a"] = 128
    assert (limits.documents(capacity), limits.pages("a"), limits.pages("b")) == (128, 128, LEAST_PAGES)


def test_a_configured_queue_is_an_upper_bound_and_leaves_half_of_itself_to_first_pages() -> None:
    limits = WindowLimits(lambda engine: 100, queue=40)
    assert (limits.documents(["a"]), limits.pages("a")) == (40, 20)
    assert WindowLimits(lambda engine: 1, queue=40).pages("a") == LEAST_PAGES


@pytest.mark.parametrize(
    "engine",
    [
        TesseractSettings(),
        DummySettings(max_batch=1),
        DummySettings(max_batch=8),
        PaddleOcrVlSettings(),
        PaddleOcrVlSettings.model_validate({"vlm": {"backend": "vllm-server", "url": "http://vlm:1/v1"}}),
    ],
    ids=["tesseract", "dummy", "dummy in batches", "native", "server"],
)
def test_a_replica_has_room_for_the_windows_of_an_ingress_and_of_jobs_and_a_window_keeps_it_busy(
    engine: EngineSettings,
) -> None:
    assert engine.pages_at_a_replica >= 2 * engine.window_of_a_replica()
    assert engine.window_of_a_replica() >= 2 * engine.max_batch


@pytest.mark.parametrize(("page_s", "window"), [(0.0, 4), (0.001, 4), (0.3, 4), (0.5, 3), (1.0, 2), (30.0, 2)])
def test_of_pages_that_take_long_few_wait_at_a_replica(page_s: float, window: int) -> None:
    assert TesseractSettings().window_of_a_replica(page_s) == window
    assert DummySettings(max_batch=8).window_of_a_replica(page_s) == 16, "a batch runs, and the next one is there"
