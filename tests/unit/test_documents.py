"""A document's way through the service, with a pipeline that answers as the real one does."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.document import Block, EngineInfo, Figure, Page, PageContent, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.document.outline import BlockChange, PageOutline, Structure
from serve_app.errors import EngineLoading, InvalidField, QueueFull, RecognitionFailed, ServiceError, TooManyPages
from serve_app.ingress.responses.document_events import EventStream
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.document_run import DocumentRun, within_deadline
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.results import Results
from serve_app.pipeline.timings import Timings
from serve_app.scheduling.admission import Admission
from serve_app.settings import FolderStoreSettings, Limits
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.caches import no_cache

TWO_PAGES = b"%PDF-"  # what it is only matters to rasterizers
FIGURE = "imgs/img_in_image_box_1_2_3_4.jpg"


def page(number: int) -> PageResult:
    """A heading, a picture and a table."""
    markdown = f"## Глава\n\n![]({FIGURE})\n\n\n\n<table>"
    blocks = [
        Block(label="paragraph_title", text="Глава", bbox=(0, 0, 9, 9), order=0, markdown_span=(0, 8)),
        Block(label="image", text="", bbox=(1, 2, 3, 4), order=1, figure=FIGURE, markdown_span=(10, 15 + len(FIGURE))),
        Block(label="table", text="a", content="<table>", bbox=(0, 9, 9, 20), order=2, markdown_span=(17 + len(FIGURE), len(markdown))),
    ]  # fmt: skip
    read = Page(number=number, width=9, height=20, dpi=72, text="Глава\n\na", markdown=markdown, blocks=blocks)
    return PageResult(PageContent(read, (Figure(FIGURE, b"jpeg %d" % number),)), EngineInfo(name="x", version="1"))


class TwoPages:
    """Stands for a Pipeline with a document of two pages. `structure` is what the engine says of it."""

    def __init__(self, structure: Structure | Exception) -> None:
        self.answer = structure
        self.asked: list[Sequence[PageOutline]] = []
        self.admission = Admission(1)

    def slot(self) -> AbstractContextManager[None]:
        return self.admission.slot()

    async def count_pages(self, source: SourceFile) -> int:
        return 2

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
        for number in (2, 1):
            yield PageOutcome(number, page(number))

    async def structure(self, engine: str, outlines: Sequence[PageOutline], options: RecognitionOptions) -> Structure:
        self.asked.append(outlines)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def opened(
    tmp_path: Path, pipeline: TwoPages, *, limits: Limits | None = None, started_ago_s: float = 0, **options: Any
) -> DocumentRun:
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))

    async def fetch(data: bytes) -> bytes:
        return data

    documents = Documents(
        cast(Pipeline, pipeline),
        Results(store, StoreMonitor(store), keep_source=False),
        no_cache(),
        limits=limits or Limits(),
        share=lambda data: data,
        fetch=fetch,
    )
    request = DocumentRequest(engine="x", options=RecognitionOptions(), **options)
    timings = Timings(started=time.perf_counter() - started_ago_s)
    return await documents.open(TWO_PAGES, request, owner="me", timings=timings)


async def read(run: DocumentRun) -> list[int]:
    return [content.page.number async for content in run.pages()]


async def text_of(run: DocumentRun, kind: OutputFormat, summary: Any) -> str:
    with await run.renderer.rendered(kind, summary) as file:
        return file.read().decode()


async def test_the_engine_sees_the_outlines_in_the_order_of_pages_and_its_changes_are_made(tmp_path: Path) -> None:
    joined = [
        BlockChange(1, 2, content="<table><tr><td>ab</td></tr></table>", text="ab", markdown="<table>ab"),
        BlockChange(2, 2, continues_from=1, markdown=""),
        BlockChange(2, 0, level=3, markdown="### Глава"),
    ]
    pipeline = TwoPages(Structure(joined))
    with await opened(tmp_path, pipeline) as run:
        assert await read(run) == [2, 1]
        summary = await run.finish()
        markdown = await text_of(run, OutputFormat.MARKDOWN, summary)
    (outlines,) = pipeline.asked
    assert [outline.number for outline in outlines] == [1, 2]
    assert [block.content for block in outlines[0].blocks] == ["Глава", "", "<table>"]
    assert summary.warnings == []
    figures = [FIGURE.replace("imgs/", f"imgs/page-{number}-") for number in (1, 2)]
    assert markdown == f"## Глава\n\n![]({figures[0]})\n\n<table>ab\n\n### Глава\n\n![]({figures[1]})"


@pytest.mark.parametrize("failure", [RecognitionFailed(), TimeoutError()])
async def test_a_document_that_cannot_be_made_one_piece_is_answered_and_says_so(
    tmp_path: Path, failure: ServiceError | TimeoutError
) -> None:
    with await opened(tmp_path, TwoPages(failure)) as run:
        await read(run)
        summary = await run.finish()
        markdown = await text_of(run, OutputFormat.MARKDOWN, summary)
    assert summary.status == "done" and [warning.code for warning in summary.warnings] == ["not_restructured"]
    assert markdown.count("<table>") == 2


async def test_nobody_is_asked_where_that_is_not_wanted(tmp_path: Path) -> None:
    pipeline = TwoPages(RecognitionFailed())
    with await opened(tmp_path, pipeline, restructure=False) as run:
        await read(run)
        assert (await run.finish()).warnings == []
    assert pipeline.asked == []


async def test_spans_are_right_after_pictures_have_names_of_their_own(tmp_path: Path) -> None:
    with await opened(tmp_path, TwoPages(Structure())) as run:
        async for content in run.pages():
            each = content.page
            pieces = [
                each.markdown[slice(*block.markdown_span)].strip() for block in each.blocks if block.markdown_span
            ]
            assert pieces == ["## Глава", f"![]({each.blocks[1].figure})", "<table>"]
            assert f"page-{each.number}-" in (each.blocks[1].figure or "")


async def test_a_document_holds_its_place_until_its_pages_are_done_and_no_longer(tmp_path: Path) -> None:
    pipeline = TwoPages(Structure())
    with await opened(tmp_path, pipeline) as run:
        with pytest.raises(QueueFull):
            await opened(tmp_path, pipeline)
        await read(run)
        with await opened(tmp_path, pipeline):
            pass
    with await opened(tmp_path, pipeline):  # given up before its pages were read
        pass
    with pytest.raises(InvalidField):
        await opened(tmp_path, pipeline, pages="3")
    with pytest.raises(TooManyPages):
        await opened(tmp_path, pipeline, max_pages=1)
    with await opened(tmp_path, pipeline):
        pass


async def test_a_request_cannot_raise_the_services_limit_of_pages(tmp_path: Path) -> None:
    with pytest.raises(TooManyPages, match="limit is 1"):
        await opened(tmp_path, TwoPages(Structure()), limits=Limits(max_pages=1), max_pages=10)


class Slow(TwoPages):
    """Its second page takes for ever."""

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
        yield PageOutcome(1, page(1))
        await asyncio.sleep(60)


async def test_what_is_done_by_the_deadline_is_answered_and_the_rest_says_why(tmp_path: Path) -> None:
    limits = Limits(document_s=0.2, request_s=50)
    with await opened(tmp_path, Slow(Structure()), limits=limits) as run:
        assert await read(run) == [1, 2]
        summary = await run.finish()
        document = json.loads(await text_of(run, OutputFormat.JSON, summary))
    assert summary.status == "partial"
    assert [each["error"] and each["error"]["code"] for each in document["pages"]] == [None, "document_timeout"]


async def test_time_before_a_documents_opening_counts(tmp_path: Path) -> None:
    limits = Limits(document_s=30, request_s=50)
    with await opened(tmp_path, Slow(Structure()), limits=limits, started_ago_s=29.9) as run:
        started = time.monotonic()
        await read(run)
        assert time.monotonic() - started < 5


async def test_nobody_waits_for_all_pages_to_hear_that_the_engine_is_away(tmp_path: Path) -> None:
    class Away(TwoPages):
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
            yield PageOutcome(1, EngineLoading(retry_after_s=1))
            raise AssertionError("asked for more")

    with await opened(tmp_path, Away(Structure())) as run, pytest.raises(EngineLoading):
        await read(run)


async def test_the_engine_told_is_the_one_that_recognized_and_not_the_text_layer(tmp_path: Path) -> None:
    class Mixed(TwoPages):
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
            yield PageOutcome(2, page(2))
            own = page(1)
            own.page.text_source = "text_layer"
            yield PageOutcome(1, PageResult(own.content, EngineInfo(name="text-layer", version="1")))

    with await opened(tmp_path, Mixed(Structure())) as run:
        await read(run)
        assert (await run.finish()).engine.name == "x"


async def test_the_log_tells_of_a_client_who_left_a_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve.ingress")
    with await opened(tmp_path, TwoPages(Structure([]))) as run:
        stream = EventStream(run, "application/x-ndjson", nullcontext())
        events = cast(AsyncGenerator[str, None], stream.body_iterator)
        assert json.loads(await anext(events))["event"] == "start"
        assert json.loads(await anext(events))["event"] == "page"
        await events.aclose()
    assert f"document {run.id}: the client left after 1 of 2 page(s)" in caplog.text


async def test_failed_pages_are_read_again_in_a_new_slot(tmp_path: Path) -> None:
    class FailsOnce(TwoPages):
        def __init__(self) -> None:
            super().__init__(Structure())
            self.numbers: list[list[int]] = []

        async def pages(self, source: SourceFile, numbers: list[int], **_: Any) -> AsyncIterator[PageOutcome]:
            self.numbers.append(numbers)
            for number in numbers:
                fails = number == 2 and len(self.numbers) == 1
                yield PageOutcome(number, RecognitionFailed() if fails else page(number))

    pipeline = FailsOnce()
    with await opened(tmp_path, pipeline) as run:
        assert await read(run) == [1, 2] and run.collector.failed == 1
        run.collector.retract([2])
        assert run.collector.failed == 0
        with pipeline.admission.slot(), pytest.raises(QueueFull):
            await read(run)
        assert await read(run) == [2]
        assert pipeline.numbers == [[1, 2], [2]] and pipeline.admission.in_use == 0
        assert (await run.finish()).status == "done"


async def test_a_reader_who_leaves_early_frees_the_slot(tmp_path: Path) -> None:
    pipeline = TwoPages(Structure())
    with await opened(tmp_path, pipeline) as run:
        pages = run.pages()
        await anext(pages)
        assert pipeline.admission.in_use == 1
        await pages.aclose()
        assert pipeline.admission.in_use == 0


async def test_items_come_until_the_deadline_and_their_source_is_closed() -> None:
    closed = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    got = []
    with pytest.raises(TimeoutError):
        async for item in within_deadline(items(), asyncio.get_running_loop().time() + 0.05):
            got.append(item)
    assert got == [1, 2] and closed == [True]


async def test_items_that_end_before_the_deadline_end_without_an_error() -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 1

    assert [item async for item in within_deadline(items(), asyncio.get_running_loop().time() + 60)] == [1]
