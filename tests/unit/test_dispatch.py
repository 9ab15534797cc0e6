"""The pipeline's decisions, with handles that answer as Serve's do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from serve_app.document import EngineInfo, Page, PageContent, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.document.outline import BlockChange, PageOutline
from serve_app.errors import (
    CorruptDocument,
    EngineFailed,
    EngineLoading,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    ServiceError,
    ServiceUnavailable,
    VlmServerAway,
)
from serve_app.pipeline.dispatch import Pipeline
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.page_reader import DEADLY_PAGES
from serve_app.pipeline.replica_calls import RetryPolicy
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.caches import no_cache


def reading() -> PageResult:
    return PageResult(PageContent(Page(number=1, width=1, height=1, dpi=1)), EngineInfo(name="x", version="1"))


RESULT = reading()
SOURCE = SourceFile("document", b"")


class Handle:
    """Stands for a DeploymentHandle: `.method.remote(...)` gives the next of `answers`, raising exceptions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self, *arguments: Any, owner: str = "") -> Awaitable[Any]:
        self.calls.append(arguments)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        async def response() -> Any:
            if isinstance(answer, Exception) and not isinstance(answer, ServiceError):
                raise answer
            return answer

        return asyncio.ensure_future(response())


class Silent(Handle):
    """A deployment without replicas: Serve keeps a call until there is one."""

    def remote(self, *arguments: Any, owner: str = "") -> Awaitable[Any]:
        return asyncio.ensure_future(asyncio.Event().wait())


RETRY = RetryPolicy(pause_s=0, look_s=0.02)


def pipeline_of(
    rasterizer: Handle,
    recognizer: Handle,
    *,
    ready: bool = True,
    has_replicas: bool = True,
    fallback: Handle | None = None,
    queue: int = 8,
    window: int = 4,
) -> Pipeline:
    handles: Any = (rasterizer, {"x": recognizer, "other": fallback}, no_cache())
    return Pipeline(
        *handles,
        queue=queue,
        window=window,
        is_ready=lambda engine: ready,
        has_replicas=lambda engine: has_replicas,
        fallbacks={"x": "other"} if fallback is not None else {},
        engine_wait_s=0.1,
        retry=RETRY,
    )


async def test_a_page_that_is_in_the_cache_is_not_sent(tmp_path: Path) -> None:
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))
    cache = PageCache(store, StoreMonitor(store), Settings(cache_days=1), lambda engine: "1")
    recognizer = Handle(PageResult(RESULT.content, EngineInfo(name="tesseract", version="1")))
    handles: Any = (Handle("pixels"), {"tesseract": recognizer}, cache)
    pipeline = Pipeline(*handles, queue=8, window=4, is_ready=bool, has_replicas=bool, fallbacks={}, engine_wait_s=1)
    source, options = SourceFile("document", b"", digest=cache.digest(b"%PDF-")), RecognitionOptions()
    for _ in range(2):
        found = [
            outcome async for outcome in pipeline.pages(source, [1, 2], engine="tesseract", options=options, dpi=None)
        ]
        assert sorted(outcome.number for outcome in found) == [1, 2]
        assert all(isinstance(outcome.result, PageResult) for outcome in found)
        assert len(recognizer.calls) == 2


async def recognize(
    recognizer: Handle,
    *,
    ready: bool = True,
    has_replicas: bool = True,
    fallback: Handle | None = None,
) -> tuple[PageResult | ServiceError, Handle]:
    rasterizer = Handle("pixels")
    pipeline = pipeline_of(rasterizer, recognizer, ready=ready, has_replicas=has_replicas, fallback=fallback)
    (outcome,) = [
        outcome async for outcome in pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None)
    ]
    assert outcome.number == 1
    return outcome.result, rasterizer


def upstream_died() -> RayServeException:
    error = RayServeException("an upstream actor died")
    error.__cause__ = ActorDiedError()
    return error


async def test_a_page_whose_recognizer_died_is_sent_again_with_the_same_pixels() -> None:
    recognizer = Handle(ActorDiedError(), ActorDiedError(), RESULT)
    result, rasterizer = await recognize(recognizer)
    assert result is RESULT
    assert len(rasterizer.calls) == 1
    assert len({id(call[0]) for call in recognizer.calls}) == 1


@pytest.mark.parametrize(
    "lost",
    [
        lambda: RayTaskError("recognize", "traceback", ActorDiedError()),
        upstream_died,
    ],
    ids=["noticed by the recognizer", "noticed by the router"],
)
async def test_a_page_whose_pixels_were_lost_is_rasterized_again(lost: Callable[[], Exception]) -> None:
    result, rasterizer = await recognize(Handle(lost(), RESULT))
    assert result is RESULT
    assert len(rasterizer.calls) == 2


async def test_a_page_that_takes_every_replica_down_is_given_up() -> None:
    recognizer = Handle(ActorDiedError())
    result, _ = await recognize(recognizer)
    assert isinstance(result, RecognitionFailed)
    assert len(recognizer.calls) == RETRY.attempts


async def test_a_bug_in_a_recognizer_is_not_taken_for_a_death_and_costs_its_page_only() -> None:
    recognizer = Handle(RayTaskError("recognize", "traceback", ZeroDivisionError()))
    result, _ = await recognize(recognizer)
    assert isinstance(result, RecognitionFailed) and len(recognizer.calls) == 1


@pytest.mark.parametrize(
    "trouble", [ActorDiedError(), RayTaskError("read_text", "traceback", OSError()), CorruptDocument()]
)
async def test_a_page_whose_own_text_cannot_be_read_is_recognized(trouble: Exception) -> None:
    pipeline = pipeline_of(Handle(trouble), Handle(RESULT))
    found = pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None, text_layer=True)
    assert [outcome.result async for outcome in found] == [RESULT]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(BackPressureError(1, 1), QueueFull), (DeploymentUnavailableError(DeploymentID("x")), ServiceUnavailable)],
)
async def test_a_document_that_no_rasterizer_can_open_now_may_be_sent_again(
    trouble: Exception, error: type[ServiceError]
) -> None:
    with pytest.raises(error) as refused:
        await pipeline_of(Handle(trouble), Handle(RESULT)).count_pages(SOURCE)
    assert refused.value.retry_after_s
    assert await pipeline_of(Handle(ActorDiedError(), 3), Handle(RESULT)).count_pages(SOURCE) == 3


async def test_a_replica_without_an_engine_does_not_decide_where_another_has_one() -> None:
    result, _ = await recognize(Handle(EngineFailed(), EngineFailed(), RESULT))
    assert result is RESULT


async def test_where_no_replica_has_an_engine_the_answer_comes_at_once() -> None:
    recognizer = Handle(EngineFailed())
    result, _ = await recognize(recognizer, ready=False)
    assert isinstance(result, EngineFailed) and len(recognizer.calls) == 1


async def test_serves_own_refusals_are_answers() -> None:
    full, _ = await recognize(Handle(BackPressureError(1, 1)))
    assert isinstance(full, QueueFull) and full.retry_after_s
    failed, _ = await recognize(Handle(DeploymentUnavailableError(DeploymentID("x"))))
    assert isinstance(failed, EngineFailed) and failed.retry_after_s


async def test_a_page_does_not_wait_for_ever_where_the_cluster_has_no_replica() -> None:
    result, _ = await recognize(Silent(), has_replicas=False)
    assert isinstance(result, EngineLoading) and result.retry_after_s


@pytest.mark.parametrize("unavailable", [EngineFailed(), EngineLoading(), VlmServerAway()], ids=lambda e: str(e.code))
async def test_the_fallback_reads_what_the_engine_cannot_just_now(unavailable: ServiceError) -> None:
    result, _ = await recognize(Handle(unavailable), ready=False, fallback=Handle(reading()))
    assert isinstance(result, PageResult) and result.page.degraded
    (warning,) = result.page.warnings
    assert warning.code == "fallback_engine" and unavailable.message in warning.message


async def test_the_fallback_stands_in_where_there_is_no_replica() -> None:
    result, _ = await recognize(Silent(), has_replicas=False, fallback=Handle(reading()))
    # The fallback is silent in nothing: it answers before anybody looks for its replicas.
    assert isinstance(result, PageResult) and result.page.degraded


async def test_what_is_wrong_with_a_page_is_not_the_fallbacks_business() -> None:
    fallback = Handle(reading())
    result, _ = await recognize(Handle(PageTimeout()), fallback=fallback)
    assert isinstance(result, PageTimeout) and not fallback.calls


async def test_where_the_fallback_cannot_either_the_engine_asked_for_answers() -> None:
    result, _ = await recognize(Handle(VlmServerAway()), fallback=Handle(EngineFailed()), ready=False)
    assert isinstance(result, VlmServerAway)


class Gate(Handle):
    """A recognizer whose pages are done when they are let through, by their numbers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.waiting: dict[int, asyncio.Future[Any]] = {}

    def remote(self, *arguments: Any, owner: str = "") -> Awaitable[Any]:
        number = arguments[0]
        self.waiting[number] = asyncio.get_running_loop().create_future()
        return self.waiting[number]

    def done(self, number: int) -> None:
        self.waiting.pop(number).set_result(reading())


class Numbers(Handle):
    """A rasterizer whose pixels are the page's number."""

    def remote(self, *arguments: Any, owner: str = "") -> Any:
        return arguments[3]


def gated(queue: int = 8, window: int = 3) -> tuple[Pipeline, Gate]:
    gate = Gate()
    return pipeline_of(Numbers(None), gate, queue=queue, window=window), gate


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_document_has_a_window_of_pages_in_flight_and_gives_each_when_it_is_done() -> None:
    pipeline, gate = gated()
    got: list[int] = []

    async def read() -> None:
        async for outcome in pipeline.pages(SOURCE, range(1, 6), engine="x", options=RecognitionOptions(), dpi=None):
            got.append(outcome.number)

    work = asyncio.create_task(read())
    await settle()
    assert sorted(gate.waiting) == [1, 2, 3]
    gate.done(2)
    await settle()
    assert got == [2] and sorted(gate.waiting) == [1, 3, 4]
    for number in (1, 3, 4):
        gate.done(number)
    await settle()
    gate.done(5)
    await work
    assert sorted(got) == [1, 2, 3, 4, 5]


async def test_documents_leave_half_of_the_places_to_others_and_give_theirs_back() -> None:
    pipeline, gate = gated(queue=4, window=4)
    with pipeline.slot():
        document = pipeline.pages(SOURCE, range(1, 9), engine="x", options=RecognitionOptions(), dpi=None)
        first = asyncio.ensure_future(anext(document))
        await settle()
        assert len(gate.waiting) == 2, "a place of its own, and one of the spare half"
        with pipeline.slot(), pipeline.slot(), pytest.raises(QueueFull), pipeline.slot():
            pass
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await document.aclose()
    with pipeline.slot(), pipeline.slot(), pipeline.slot(), pipeline.slot():
        pass


async def test_a_document_gives_places_back_as_its_last_pages_are_done() -> None:
    pipeline, gate = gated(queue=4, window=4)
    with pipeline.slot():
        document = pipeline.pages(SOURCE, [1, 2], engine="x", options=RecognitionOptions(), dpi=None)
        first = asyncio.ensure_future(anext(document))
        await settle()
        gate.done(1)
        await first
        with pipeline.slot(), pipeline.slot(), pipeline.slot():
            pass
        await document.aclose()


async def test_pages_in_flight_are_given_up_when_nobody_wants_the_document_any_more() -> None:
    pipeline, gate = gated()
    document = pipeline.pages(SOURCE, [1, 2, 3], engine="x", options=RecognitionOptions(), dpi=None)
    first = asyncio.ensure_future(anext(document))
    await settle()
    pages = list(gate.waiting.values())
    gate.done(1)
    await first
    await document.aclose()
    await settle()
    assert [page.cancelled() for page in pages[1:]] == [True, True]


async def test_the_structure_of_a_document_is_asked_for_again_where_its_replica_died() -> None:
    change = BlockChange(1, 0, level=2)
    recognizer = Handle(ActorDiedError(), [change])
    pipeline = pipeline_of(Handle(None), recognizer)
    outlines = [PageOutline(1, ())]
    structure = await pipeline.structure("x", outlines, RecognitionOptions())
    assert structure.changes(1) and not structure.changes(2)
    assert recognizer.calls == [(outlines, RecognitionOptions())] * 2
    recognizer.answers = [EngineLoading()]
    with pytest.raises(EngineLoading):
        await pipeline.structure("x", outlines, RecognitionOptions())


async def test_a_document_whose_pages_end_every_replica_is_given_up() -> None:
    recognizer = Handle(ActorDiedError())
    pipeline = pipeline_of(Handle("pixels"), recognizer, window=1)
    document = pipeline.pages(SOURCE, range(1, 9), engine="x", options=RecognitionOptions(), dpi=None)
    outcomes = [outcome.result async for outcome in document]
    assert all(isinstance(outcome, RecognitionFailed) for outcome in outcomes) and len(outcomes) == 8
    assert len(recognizer.calls) == DEADLY_PAGES * RETRY.attempts
    recognizer.answers = [RESULT]
    again = pipeline.pages(SOURCE, [1], engine="x", options=RecognitionOptions(), dpi=None)
    assert [outcome.result async for outcome in again] == [RESULT]
