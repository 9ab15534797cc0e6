"""The pipeline's window and slots, and its calls for a whole document."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.document import SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.document.outline import BlockChange, PageOutline
from serve_app.errors import (
    EngineLoading,
    QueueFull,
    ServiceError,
    ServiceUnavailable,
)
from serve_app.pipeline.dispatch import Pipeline
from tests.support.handles import RESULT, SOURCE, Handle, page_result, pipeline_of


class Gate(Handle):
    """A recognizer whose pages are done when they are let through, by their numbers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.behind: list[float] = []
        self.at_once = False

    def remote(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        number = arguments[0]
        self.behind.append(named["behind"])
        if self.at_once:
            return asyncio.sleep(0, page_result())
        self.waiting[number] = asyncio.get_running_loop().create_future()
        return self.waiting[number]

    def done(self, number: int) -> None:
        self.waiting.pop(number).set_result(page_result())


class Pixels(int):
    """Those of the page with this number."""

    cancelled: list[int]

    def cancel(self) -> None:
        self.cancelled.append(int(self))


class Numbers(Handle):
    """A rasterizer. `cancelled` are the pages whose call was cancelled, which does nothing once it has ended."""

    def __init__(self) -> None:
        super().__init__(None)
        self.cancelled: list[int] = []

    def remote(self, *arguments: Any, **named: Any) -> Any:
        pixels = Pixels(arguments[3])
        pixels.cancelled = self.cancelled
        return pixels


def gated(queue: int | None = None, window: int | None = 3, capacity: int = 0) -> tuple[Pipeline, Gate]:
    gate = Gate()
    return pipeline_of(Numbers(), gate, queue=queue, window=window, capacity=capacity), gate


OTHER = SourceFile("other", b"")


async def cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_document_has_a_window_of_pages_in_flight_and_yields_each_when_it_is_done() -> None:
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


async def test_a_limit_of_the_queue_bounds_documents_and_half_as_many_pages_beside_their_first_ones() -> None:
    pipeline, gate = gated(queue=4, window=4)
    with pipeline.slot():
        document = pipeline.pages(SOURCE, range(1, 9), engine="x", options=RecognitionOptions(), dpi=None)
        first = asyncio.ensure_future(anext(document))
        await settle()
        assert len(gate.waiting) == 2
        with pipeline.slot(), pipeline.slot(), pipeline.slot(), pytest.raises(QueueFull), pipeline.slot():
            pass
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await document.aclose()


async def test_a_reader_that_stands_still_holds_no_slots_and_few_pages() -> None:
    pipeline, gate = gated(window=None, capacity=40)
    slow = pipeline.pages(SOURCE, range(1, 301), engine="x", options=RecognitionOptions(), dpi=None)
    first = asyncio.ensure_future(anext(slow))
    await settle()
    assert len(gate.waiting) == 40
    sent = 0
    while gate.waiting:
        sent += 1
        gate.done(next(iter(gate.waiting)))
        await settle()
    assert (await first).number == 1
    assert 40 < sent <= 1 + 2 * 40, "the pages that were in flight, and as many more"
    other = pipeline.pages(OTHER, range(1, 301), engine="x", options=RecognitionOptions(), dpi=None)
    beside = asyncio.ensure_future(anext(other))
    await settle()
    assert len(gate.waiting) == 40, "the other document has all slots"
    await cancelled(beside)
    await slow.aclose()
    await other.aclose()


async def test_a_reader_goes_on_where_it_stood_still() -> None:
    pipeline, gate = gated(window=None, capacity=40)
    gate.at_once = True
    document = pipeline.pages(SOURCE, range(1, 101), engine="x", options=RecognitionOptions(), dpi=None)
    numbers = []
    async for outcome in document:
        numbers.append(outcome.number)
        await settle()
    assert sorted(numbers) == list(range(1, 101))


async def test_each_call_says_how_many_pages_wait_behind_it() -> None:
    pipeline, gate = gated(window=None, capacity=20)
    document = pipeline.pages(SOURCE, range(1, 101), engine="x", options=RecognitionOptions(), dpi=None)
    first = asyncio.ensure_future(anext(document))
    await settle()
    assert len(gate.behind) == 20 and sum(1 + behind for behind in gate.behind) == pytest.approx(100)
    await cancelled(first)
    await document.aclose()


async def test_pages_in_flight_are_cancelled_when_their_document_is_closed() -> None:
    rasterizer, gate = Numbers(), Gate()
    pipeline = pipeline_of(rasterizer, gate, queue=None, window=3, capacity=0)
    document = pipeline.pages(SOURCE, [1, 2, 3], engine="x", options=RecognitionOptions(), dpi=None)
    first = asyncio.ensure_future(anext(document))
    await settle()
    pages = list(gate.waiting.values())
    gate.done(1)
    await first
    await document.aclose()
    await settle()
    assert [page.cancelled() for page in pages[1:]] == [True, True]
    assert set(rasterizer.cancelled) >= {2, 3}, "nobody needs their pixels"


@pytest.mark.parametrize("steps", range(8))
async def test_a_page_that_ends_while_its_document_is_closed_releases_its_slot_once(steps: int) -> None:
    """The page ends so many steps of the event loop before the document is closed."""
    pipeline, gate = gated(window=None, capacity=20)
    document = pipeline.pages(SOURCE, range(1, 21), engine="x", options=RecognitionOptions(), dpi=None)
    first = asyncio.ensure_future(anext(document))
    await settle()
    gate.done(1)
    for _ in range(steps):
        await asyncio.sleep(0)
    await cancelled(first)
    await document.aclose()
    await settle()
    gate.waiting.clear()
    other = pipeline.pages(OTHER, range(1, 101), engine="x", options=RecognitionOptions(), dpi=None)
    beside = asyncio.ensure_future(anext(other))
    await settle()
    assert len(gate.waiting) == 20, "not one more than there are slots"
    await cancelled(beside)
    await other.aclose()


def test_jobs_of_one_page_each_keep_the_engines_busy_within_the_limit_of_documents() -> None:
    pipeline, _ = gated(capacity=100)
    assert pipeline.capacity("x") == 100 == pipeline.most_documents
    with ExitStack() as documents:
        for _ in range(pipeline.most_documents):
            documents.enter_context(pipeline.slot())


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(BackPressureError(1, 1), QueueFull), (DeploymentUnavailableError(DeploymentID("x")), ServiceUnavailable)],
)
async def test_a_document_that_no_rasterizer_can_open_now_is_refused_with_a_time_to_retry(
    trouble: Exception, error: type[ServiceError]
) -> None:
    with pytest.raises(error) as refused:
        await pipeline_of(Handle(trouble), Handle(RESULT)).count_pages(SOURCE)
    assert refused.value.retry_after_s
    assert await pipeline_of(Handle(ActorDiedError(), 3), Handle(RESULT)).count_pages(SOURCE) == 3


async def test_the_structure_of_a_document_is_requested_again_if_its_replica_dies() -> None:
    change = BlockChange(1, 0, level=2)
    recognizer = Handle(ActorDiedError(), [change])
    pipeline = pipeline_of(Handle(None), recognizer)
    outlines = [PageOutline(1, ())]
    structure = await pipeline.structure("x", outlines, RecognitionOptions())
    assert structure.changes_page(1) and not structure.changes_page(2)
    assert recognizer.calls == [(outlines, RecognitionOptions())] * 2
    recognizer.answers = [EngineLoading()]
    with pytest.raises(EngineLoading):
        await pipeline.structure("x", outlines, RecognitionOptions())
