"""The Recognizer without Serve around it: what it does when its engine is in trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextvars import ContextVar

import numpy as np
import pytest

from serve_app.document import Page, PageImage, PageResult, RecognitionOptions
from serve_app.errors import CorruptDocument, EngineFailed, EngineLoading, PageTimeout, RecognitionFailed, ServiceError
from serve_app.recognition import deployment
from serve_app.recognition.deployment import Recognizer
from serve_app.recognition.engines import PageTask
from serve_app.settings import DummySettings, Limits

IMAGE = PageImage(np.full((20, 20, 3), 255, dtype=np.uint8), number=1, dpi=200, rasterize_ms=1.5)
OPTIONS = RecognitionOptions()


async def recognizer(settings: DummySettings | None = None, **limits: float) -> Recognizer:
    made = Recognizer.__new__(Recognizer)
    await made.__init__(settings or DummySettings(), Limits(**limits))  # type: ignore[misc]  # as Serve does
    return made


async def test_a_page_comes_back_with_its_timings() -> None:
    result = await (await recognizer(DummySettings(text="Ёж"))).recognize(IMAGE, OPTIONS)
    assert isinstance(result, PageResult)
    assert result.page.text == "Ёж"
    assert result.timings_ms.keys() == {"rasterize", "queue", "recognize"}
    assert result.timings_ms["rasterize"] == 1.5


async def test_the_rasterizers_error_passes_through_without_waiting_for_the_engine() -> None:
    loading = await recognizer(DummySettings(load="lazy", load_s=5))
    error = await asyncio.wait_for(loading.recognize(CorruptDocument(), OPTIONS), 0.5)
    assert isinstance(error, CorruptDocument)


async def test_a_page_that_meets_a_loading_engine_waits_only_so_long() -> None:
    loading = await recognizer(DummySettings(load="lazy", load_s=2), engine_wait_s=0.1)
    error = await loading.recognize(IMAGE, OPTIONS)
    assert isinstance(error, EngineLoading) and error.retry_after_s


async def test_one_page_of_a_batch_may_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer()

    def second_fails(tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
        pages: list[Page | ServiceError] = [Page(number=task.image.number, width=1, height=1, dpi=1) for task in tasks]
        if len(pages) > 1:
            pages[1] = PageTimeout()
        return pages

    monkeypatch.setattr(made._engine, "recognize", second_fails)
    results = await asyncio.gather(*(made.recognize(IMAGE, OPTIONS) for _ in range(3)))
    assert [type(result) for result in results] == [PageResult, PageTimeout, PageResult]


async def test_an_engine_that_raises_fails_its_pages_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer()

    def broken(tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
        raise RuntimeError("a secret path in a library's words")

    with monkeypatch.context() as patch:
        patch.setattr(made._engine, "recognize", broken)
        error = await made.recognize(IMAGE, OPTIONS)
    assert isinstance(error, RecognitionFailed) and "secret" not in error.message
    assert isinstance(await made.recognize(IMAGE, OPTIONS), PageResult)


async def test_an_engine_that_could_not_load_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "LOAD_RETRY_S", 0.1)
    made = await recognizer(DummySettings(load_error="the model is missing"))
    error = await made.recognize(IMAGE, OPTIONS)
    assert isinstance(error, EngineFailed) and "the model is missing" in error.message and error.retry_after_s
    made._engine._settings = DummySettings()  # type: ignore[attr-defined]  # what was missing is there now
    await asyncio.sleep(0.3)
    assert isinstance(await made.recognize(IMAGE, OPTIONS), PageResult)


async def test_what_an_engine_logs_bears_the_id_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer(DummySettings(max_batch=1))
    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    seen = []

    def notes(tasks: Sequence[PageTask]) -> list[Page | ServiceError]:
        seen.append(request_id.get())
        return [Page(number=1, width=1, height=1, dpi=1) for _ in tasks]

    monkeypatch.setattr(made._engine, "recognize", notes)

    async def request(name: str) -> None:
        request_id.set(name)
        await made.recognize(IMAGE, OPTIONS)

    await asyncio.gather(*(asyncio.create_task(request(name)) for name in ("a", "b", "c")))
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("lambda tasks: sys.exit(3)", "ended by SystemExit"),
        ("lambda tasks: time.sleep(60)", "has been running for"),
    ],
    ids=["dead", "stuck"],
)
def test_a_replica_whose_engine_thread_is_dead_or_stuck_ends_itself(trouble: str, message: str) -> None:
    script = f"""
import asyncio, logging, sys, time
from tests.unit.test_recognizer import IMAGE, OPTIONS, recognizer

async def main():
    made = await recognizer(page_s=0.05)
    made.check_health()
    made._engine.recognize = {trouble}
    page = asyncio.create_task(made.recognize(IMAGE, OPTIONS))
    for _ in range(50):
        await asyncio.sleep(0.1)
        made.check_health()

logging.basicConfig()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr and "this replica ends and is replaced" in done.stderr
