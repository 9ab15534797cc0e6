"""`exports` of answers: pages as DOCX, written in a process of their own."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from serve_app.document import NativePage, Page
from serve_app.document.figures import local_figure_path
from serve_app.document.spool import PageSpool
from serve_app.outputs.rendering import WriterPool
from serve_app.outputs.writer_process import page_docx_files
from serve_app.paddlex.pages import page_of


class Exports:
    """DOCX files by the numbers of their pages, where they were asked for. A context manager, for their file."""

    def __init__(self, archive: BinaryIO | None = None) -> None:
        self._file = archive
        self._archive = None if archive is None else zipfile.ZipFile(archive)

    def of(self, number: int) -> dict[str, Any]:
        """What a page's result has more for it; it blocks."""
        if self._archive is None:
            return {}
        name = f"page-{number}.docx"
        content = base64.b64encode(self._archive.read(name)).decode()
        return {"exports": {"docx": {"content": content, "fileName": name}}}

    def __enter__(self) -> Exports:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


async def exports_of_spool(
    writers: WriterPool, spool: PageSpool, restructured: Sequence[NativePage] | None, formats: Sequence[str] | None
) -> Exports:
    """Of the pages that were read, as they are in the answer. Raises ServiceError."""
    if not formats:
        return Exports()

    def pages() -> Iterator[Page]:
        read = (page for page in spool.pages() if page.error is None)
        if restructured is None:
            yield from read
            return
        for page, paddlex in zip(read, restructured, strict=True):
            own = {local_figure_path(path, page.number): path for path in spool.figures_of(page.number)}
            piece = page_of(paddlex.result, page.number, own)
            for block in piece.blocks:
                block.figure = block.figure and own[block.figure]
            yield piece

    figures = ((path, spool.figure(path) or b"") for path in spool.figure_paths)
    async with writers.place(len(spool)) as timeout_s:
        return Exports(await page_docx_files(pages, figures, timeout_s=timeout_s))


async def exports_of_given(
    writers: WriterPool,
    restructured: Sequence[NativePage],
    images: Sequence[dict[str, str]],
    formats: Sequence[str] | None,
) -> Exports:
    """Of pages that a client gave, with their `images` by path, as base64. Raises ServiceError."""
    if not formats:
        return Exports()

    def pages() -> Iterator[Page]:
        for number, (paddlex, of_page) in enumerate(zip(restructured, images, strict=True), 1):
            page = page_of(paddlex.result, number, of_page)
            for block in page.blocks:
                block.figure = block.figure and f"{number}/{block.figure}"
            yield page

    figures = (
        (f"{number}/{path}", decoded)
        for number, of_page in enumerate(images, 1)
        for path, image in of_page.items()
        if (decoded := _picture(image)) is not None
    )
    async with writers.place(len(restructured)) as timeout_s:
        return Exports(await page_docx_files(pages, figures, timeout_s=timeout_s))


def _picture(image: str) -> bytes | None:
    """The bytes of a picture that a client sent; links are not followed."""
    _, _, encoded = image.rpartition(",")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
