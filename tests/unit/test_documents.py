"""A document's way through the service, with a pipeline that answers as the real one does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from serve_app.document import Block, EngineInfo, Figure, Page, PageReading, PageResult, SourceFile
from serve_app.documents import Documents, Reading, Wanted
from serve_app.errors import RecognitionFailed, ServiceError
from serve_app.options import RecognitionOptions
from serve_app.outputs.kinds import OutputKind
from serve_app.pipeline import PageOutcome, Pipeline
from serve_app.settings import FolderStoreSettings, Limits
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from serve_app.structure import BlockChange, PageOutline, Structure

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
    return PageResult(PageReading(read, (Figure(FIGURE, b"jpeg %d" % number),)), EngineInfo(name="x", version="1"))


class TwoPages:
    """Stands for a Pipeline with a document of two pages. `structure` is what the engine says of it."""

    def __init__(self, structure: Structure | Exception) -> None:
        self.answer = structure
        self.asked: list[Sequence[PageOutline]] = []

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


async def opened(tmp_path: Path, pipeline: TwoPages, **wanted: Any) -> Reading:
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))

    async def fetch(data: bytes) -> bytes:
        return data

    documents = Documents(
        cast(Pipeline, pipeline),
        store,
        StoreMonitor(store),
        keep_source=False,
        limits=Limits(),
        share=lambda data: data,
        fetch=fetch,
    )
    request = Wanted(engine="x", options=RecognitionOptions(), **wanted)
    return await documents.open(TWO_PAGES, request, timings_ms={}, started=time.perf_counter())


async def read(reading: Reading) -> list[int]:
    return [page.number async for page in reading.pages()]


async def text_of(reading: Reading, kind: OutputKind, summary: Any) -> str:
    with await reading.renderer.rendered(kind, summary) as file:
        return file.read().decode()


async def test_the_engine_sees_the_outlines_in_the_order_of_pages_and_its_changes_are_made(tmp_path: Path) -> None:
    joined = [
        BlockChange(1, 2, content="<table><tr><td>ab</td></tr></table>", text="ab", markdown="<table>ab"),
        BlockChange(2, 2, continues_from=1, markdown=""),
        BlockChange(2, 0, level=3, markdown="### Глава"),
    ]
    pipeline = TwoPages(Structure(joined))
    with await opened(tmp_path, pipeline) as reading:
        assert await read(reading) == [2, 1]
        summary = await reading.finish()
        markdown = await text_of(reading, OutputKind.MARKDOWN, summary)
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
    with await opened(tmp_path, TwoPages(failure)) as reading:
        await read(reading)
        summary = await reading.finish()
        markdown = await text_of(reading, OutputKind.MARKDOWN, summary)
    assert summary.status == "done" and [warning.code for warning in summary.warnings] == ["not_restructured"]
    assert markdown.count("<table>") == 2


async def test_nobody_is_asked_where_that_is_not_wanted(tmp_path: Path) -> None:
    pipeline = TwoPages(RecognitionFailed())
    with await opened(tmp_path, pipeline, restructure=False) as reading:
        await read(reading)
        assert (await reading.finish()).warnings == []
    assert pipeline.asked == []


async def test_spans_are_right_after_pictures_have_names_of_their_own(tmp_path: Path) -> None:
    with await opened(tmp_path, TwoPages(Structure())) as reading:
        async for each in reading.pages():
            pieces = [
                each.markdown[slice(*block.markdown_span)].strip() for block in each.blocks if block.markdown_span
            ]
            assert pieces == ["## Глава", f"![]({each.blocks[1].figure})", "<table>"]
            assert f"page-{each.number}-" in (each.blocks[1].figure or "")
