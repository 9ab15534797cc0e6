"""A document of two pages, read without Ray."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from serve_app.document import Block, EngineInfo, Figure, Page, PageContent, PageResult, SourceFile
from serve_app.document.options import RecognitionOptions
from serve_app.document.outline import PageOutline, Structure
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.dispatch import PageOutcome, Pipeline
from serve_app.pipeline.document_run import DocumentRun
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
        self.structure_result = structure
        self.requested_outlines: list[Sequence[PageOutline]] = []
        self.admission = Admission(1)

    def slot(self) -> AbstractContextManager[None]:
        return self.admission.slot()

    async def count_pages(self, source: SourceFile) -> int:
        return 2

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[PageOutcome]:
        for number in (2, 1):
            yield PageOutcome(number, page(number))

    async def structure(self, engine: str, outlines: Sequence[PageOutline], options: RecognitionOptions) -> Structure:
        self.requested_outlines.append(outlines)
        if isinstance(self.structure_result, Exception):
            raise self.structure_result
        return self.structure_result


async def opened(
    tmp_path: Path,
    pipeline: TwoPages,
    *,
    limits: Limits | None = None,
    started_ago_s: float = 0,
    results: Results | None = None,
    **options: Any,
) -> DocumentRun:
    """`results` by default are in the folder `tmp_path`."""
    store = FolderStore(FolderStoreSettings(path=str(tmp_path)))

    async def fetch(data: bytes) -> bytes:
        return data

    documents = Documents(
        cast(Pipeline, pipeline),
        results or Results(store, StoreMonitor(store), keep_source=False),
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
    with await run.renderer.render(kind, summary) as written:
        return written.file.read().decode()
