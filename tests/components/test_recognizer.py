"""The Recognizer without Serve around it: what it does when its engine is in trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest

from serve_app.document import Page, PageContent, PageImage, PageResult
from serve_app.document.options import RecognitionOptions
from serve_app.errors import CorruptDocument, EngineFailed, EngineLoading, PageTimeout, RecognitionFailed, ServiceError
from serve_app.metrics.catalogue import BATCH_PAGES, ENGINE_BUSY_SECONDS, ENGINE_STATE
from serve_app.recognition import deployment
from serve_app.recognition.deployment import LOAD_RETRY_S
from serve_app.recognition.engine_state import EnginePhase
from serve_app.recognition.engines import PageTask
from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.settings import DummySettings, Limits
from tests.support.metrics import grows
from tests.support.recognizer import LocalRecognizer, initialized

IMAGE = PageImage(np.full((20, 20, 3), 255, dtype=np.uint8), number=1, dpi=200, rasterize_ms=1.5)
OPTIONS = RecognitionOptions()


async def recognizer(
    settings: DummySettings | None = None, *, load_retry_s: float = LOAD_RETRY_S, **limits: float
) -> LocalRecognizer:
    return await initialized(LocalRecognizer, settings or DummySettings(), Limits(**limits), load_retry_s=load_retry_s)


async def test_a_page_comes_back_with_its_timings() -> None:
    made = await recognizer(DummySettings(text="Ёж"))
    phases = {phase: ENGINE_STATE.value(engine="dummy", phase=phase) for phase in EnginePhase}
    assert phases == {phase: phase is EnginePhase.INITIALIZED for phase in EnginePhase}
    with grows(BATCH_PAGES, engine="dummy"):
        result = await made.recognize(IMAGE, OPTIONS, "document")
    busy_s = ENGINE_BUSY_SECONDS.value(engine="dummy")
    made.check_health()
    assert busy_s < ENGINE_BUSY_SECONDS.value(engine="dummy") < busy_s + 60
    assert isinstance(result, PageResult)
    assert result.page.text == "Ёж"
    assert result.timings_ms.keys() == {"rasterize", "queue", "analyze", "recognize"}
    assert result.timings_ms["rasterize"] == 1.5


async def test_the_rasterizers_error_passes_through_without_waiting_for_the_engine() -> None:
    loading = await recognizer(DummySettings(load="lazy", load_s=5))
    error = await asyncio.wait_for(loading.recognize(CorruptDocument(), OPTIONS, "document"), 0.5)
    assert isinstance(error, CorruptDocument)


async def test_a_page_that_meets_a_loading_engine_waits_only_so_long() -> None:
    loading = await recognizer(DummySettings(load="lazy", load_s=2), engine_wait_s=0.1)
    error = await loading.recognize(IMAGE, OPTIONS, "document")
    assert isinstance(error, EngineLoading) and error.retry_after_s


async def test_where_another_engine_stands_in_no_page_waits_for_one_that_loads() -> None:
    made = await recognizer(DummySettings(load="lazy", load_s=0.3, fallback="tesseract"), engine_wait_s=30)
    error = await asyncio.wait_for(made.recognize(IMAGE, OPTIONS, "document"), 0.2)
    assert isinstance(error, EngineLoading)
    await asyncio.sleep(0.5)
    assert isinstance(await made.recognize(IMAGE, OPTIONS, "document"), PageResult)


async def test_one_page_of_a_batch_may_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer()

    def second_fails(tasks: Sequence[PageTask]) -> list[PageTask | ServiceError]:
        return [PageTimeout() if index == 1 else task for index, task in enumerate(tasks)]

    monkeypatch.setattr(made._engine, "analyze", second_fails)
    results = await asyncio.gather(*(made.recognize(IMAGE, OPTIONS, "document") for _ in range(3)))
    assert [type(result) for result in results] == [PageResult, PageTimeout, PageResult]


async def test_a_page_is_answered_when_it_is_done_not_when_its_batch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer(DummySettings(max_batch=4))
    batches, rest = [], threading.Event()

    def noted(tasks: Sequence[PageTask]) -> Sequence[PageTask]:
        batches.append(len(tasks))
        return tasks

    def read(task: PageTask) -> PageContent:
        assert task.image.number == 1 or rest.wait(10)
        return PageContent(Page(number=task.image.number, width=1, height=1, dpi=1))

    monkeypatch.setattr(made._engine, "analyze", noted)
    monkeypatch.setattr(made._engine, "read", read)
    images = [replace(IMAGE, number=number) for number in (1, 2, 3)]
    first, *others = [asyncio.create_task(made.recognize(image, OPTIONS, "document")) for image in images]
    assert isinstance(await asyncio.wait_for(first, 5), PageResult)
    assert batches == [3] and not any(other.done() for other in others)
    rest.set()
    assert all(isinstance(result, PageResult) for result in await asyncio.gather(*others))


async def test_a_single_page_is_read_next_after_the_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer(DummySettings(max_batch=1))
    read: list[int] = []
    begun, go_on = threading.Event(), threading.Semaphore(0)

    def slow(task: PageTask) -> PageContent:
        read.append(task.image.number)
        begun.set()
        assert go_on.acquire(timeout=10)
        return PageContent(Page(number=task.image.number, width=1, height=1, dpi=1))

    monkeypatch.setattr(made._engine, "read", slow)
    images = [replace(IMAGE, number=number) for number in range(1, 9)]
    long = [asyncio.create_task(made.recognize(image, OPTIONS, "long")) for image in images]
    for _ in range(2):  # some way into the document
        go_on.release()
    await asyncio.wait(long, return_when=asyncio.FIRST_COMPLETED)
    while len(read) < 3:
        await asyncio.to_thread(begun.wait, 0.01)
    single = asyncio.create_task(made.recognize(replace(IMAGE, number=100), OPTIONS, "single"))
    await asyncio.sleep(0.05)
    for _ in images:
        go_on.release()
    await asyncio.gather(*long, single)
    assert read == [1, 2, 3, 100, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("stage", ["analyze", "read"])
async def test_an_engine_that_raises_fails_its_pages_and_goes_on(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer()

    def broken(pages: object) -> NoReturn:
        raise RuntimeError("a secret path in a library's words")

    with monkeypatch.context() as patch:
        patch.setattr(made._engine, stage, broken)
        error = await made.recognize(IMAGE, OPTIONS, "document")
    assert isinstance(error, RecognitionFailed) and "secret" not in error.message
    assert isinstance(await made.recognize(IMAGE, OPTIONS, "document"), PageResult)


async def test_a_caller_who_leaves_has_its_page_given_up_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer()
    abandoned, begun = threading.Event(), threading.Event()

    def slow(task: PageTask) -> PageContent:
        begun.set()
        assert abandoned.wait(10)
        return PageContent(Page(number=1, width=1, height=1, dpi=1))

    with monkeypatch.context() as patch:
        patch.setattr(made._engine, "read", slow)
        patch.setattr(made._engine, "abandon", lambda task: abandoned.set())
        leaving = asyncio.create_task(made.recognize(IMAGE, OPTIONS, "document"))
        await asyncio.to_thread(begun.wait, 10)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert abandoned.is_set()
    assert isinstance(await asyncio.wait_for(made.recognize(IMAGE, OPTIONS, "document"), 5), PageResult)


async def test_an_engine_that_could_not_load_is_tried_again() -> None:
    made = await recognizer(DummySettings(load_error="the model is missing"), load_retry_s=0.1)
    error = await made.recognize(IMAGE, OPTIONS, "document")
    assert isinstance(error, EngineFailed) and "the model is missing" in error.message and error.retry_after_s
    made._engine._settings = DummySettings()  # type: ignore[attr-defined]  # what was missing is there now
    for _ in range(500):
        if isinstance(await made.recognize(IMAGE, OPTIONS, "document"), PageResult):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the engine is not tried again")


async def test_beside_others_a_replica_starts_only_with_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an update with an engine that cannot load, or loads for long, leaves the former replicas in their place."""
    monkeypatch.setattr(DummySettings, "warm_up_s", 0.0)
    slow = await recognizer(DummySettings(load_s=0.3))
    assert (await slow.state()).phase is EnginePhase.INITIALIZING, "alone, it starts to say so"
    monkeypatch.setattr(deployment, "others_run", lambda: True)
    assert (await (await recognizer(DummySettings(load_s=0.3))).state()).phase is EnginePhase.INITIALIZED
    with pytest.raises(EngineLoadError, match="the model is missing"):
        await recognizer(DummySettings(load_error="the model is missing"))


async def test_what_an_engine_logs_bears_the_id_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await recognizer(DummySettings(max_batch=1))
    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    seen = []

    def notes(task: PageTask) -> PageContent:
        seen.append(request_id.get())
        return PageContent(Page(number=1, width=1, height=1, dpi=1))

    monkeypatch.setattr(made._engine, "read", notes)

    async def request(name: str) -> None:
        request_id.set(name)
        await made.recognize(IMAGE, OPTIONS, "document")

    await asyncio.gather(*(asyncio.create_task(request(name)) for name in ("a", "b", "c")))
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("lambda task: sys.exit(3)", "ended by SystemExit"),
        ("lambda task: time.sleep(60)", "has been running for"),
    ],
    ids=["dead", "stuck"],
)
def test_a_replica_whose_engine_thread_is_dead_or_stuck_ends_itself(trouble: str, message: str) -> None:
    script = f"""
import asyncio, logging, sys, time
from tests.components.test_recognizer import IMAGE, OPTIONS, recognizer

async def main():
    made = await recognizer(page_s=0.05)
    made.check_health()
    made._engine.read = {trouble}
    page = asyncio.create_task(made.recognize(IMAGE, OPTIONS, "document"))
    for _ in range(50):
        await asyncio.sleep(0.1)
        made.check_health()

logging.basicConfig()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr and "this replica exits and will be replaced" in done.stderr
