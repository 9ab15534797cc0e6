"""A document's run: its pages, deadline, structure and retries."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.document import EngineInfo, PageResult, SourceFile
from serve_app.document.outline import BlockChange, Structure
from serve_app.errors import EngineLoading, QueueFull, RecognitionFailed, ServiceError
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.dispatch import PageOutcome
from serve_app.pipeline.document_run import within_deadline
from serve_app.settings import Limits
from tests.support.two_pages import FIGURE, TwoPages, opened, page, read, text_of


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
    (outlines,) = pipeline.requested_outlines
    assert [outline.number for outline in outlines] == [1, 2]
    assert [block.content for block in outlines[0].blocks] == ["Глава", "", "<table>"]
    assert summary.warnings == []
    figures = [FIGURE.replace("imgs/", f"imgs/page-{number}-") for number in (1, 2)]
    assert markdown == f"## Глава\n\n![]({figures[0]})\n\n<table>ab\n\n### Глава\n\n![]({figures[1]})"


@pytest.mark.parametrize("failure", [RecognitionFailed(), TimeoutError()])
async def test_a_document_whose_restructuring_fails_has_a_warning(
    tmp_path: Path, failure: ServiceError | TimeoutError
) -> None:
    with await opened(tmp_path, TwoPages(failure)) as run:
        await read(run)
        summary = await run.finish()
        markdown = await text_of(run, OutputFormat.MARKDOWN, summary)
    assert summary.status == "done" and [warning.code for warning in summary.warnings] == ["not_restructured"]
    assert markdown.count("<table>") == 2


async def test_the_engine_is_not_called_for_structure_without_restructure(tmp_path: Path) -> None:
    pipeline = TwoPages(RecognitionFailed())
    with await opened(tmp_path, pipeline, restructure=False) as run:
        await read(run)
        assert (await run.finish()).warnings == []
    assert pipeline.requested_outlines == []


async def test_markdown_spans_are_right_after_figures_are_qualified(tmp_path: Path) -> None:
    with await opened(tmp_path, TwoPages(Structure())) as run:
        async for content in run.pages():
            each = content.page
            pieces = [
                each.markdown[slice(*block.markdown_span)].strip() for block in each.blocks if block.markdown_span
            ]
            assert pieces == ["## Глава", f"![]({each.blocks[1].figure})", "<table>"]
            assert f"page-{each.number}-" in (each.blocks[1].figure or "")


class Slow(TwoPages):
    """Its second page takes for ever."""

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
        yield PageOutcome(1, page(1))
        await asyncio.sleep(60)


async def test_pages_that_are_late_have_an_error_and_the_others_are_returned(tmp_path: Path) -> None:
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


async def test_an_unavailable_engine_ends_the_run_at_the_first_page(tmp_path: Path) -> None:
    class Away(TwoPages):
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
            yield PageOutcome(1, EngineLoading(retry_after_s=1))
            raise AssertionError("another page was requested")

    with await opened(tmp_path, Away(Structure())) as run, pytest.raises(EngineLoading):
        await read(run)


async def test_the_documents_engine_is_the_one_that_recognized_and_not_the_text_layer(tmp_path: Path) -> None:
    class Mixed(TwoPages):
        async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
            yield PageOutcome(2, page(2))
            own = page(1)
            own.page.text_source = "text_layer"
            yield PageOutcome(1, PageResult(own.content, EngineInfo(name="text-layer", version="1")))

    with await opened(tmp_path, Mixed(Structure())) as run:
        await read(run)
        assert (await run.finish()).engine.name == "x"


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


async def test_the_source_of_items_is_closed_with_them() -> None:
    closed = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closed.append(True)

    source = items()
    limited = within_deadline(source, asyncio.get_running_loop().time() + 60)
    assert await anext(limited) == 1
    await limited.aclose()
    assert closed == [True]
