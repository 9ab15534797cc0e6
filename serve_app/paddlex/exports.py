"""`exports` in responses: each page as DOCX, written in a separate process."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from serve_app.document import NativePage, Page
from serve_app.document.figures import local_figure_path
from serve_app.document.spool import PageSpool
from serve_app.outputs.rendering import Writers
from serve_app.outputs.writer_client import page_docx_files
from serve_app.paddlex.pages import from_paddlex


class Exports:
    """The requested DOCX files by page number. A context manager, which closes their archive."""

    def __init__(self, archive: BinaryIO | None = None) -> None:
        self._file = archive
        self._archive = None if archive is None else zipfile.ZipFile(archive)

    def for_page(self, number: int) -> dict[str, Any]:
        """Return the field `exports` of a page's result, in a dict; empty if none were requested. Blocks."""
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


async def export_spool(
    writers: Writers, spool: PageSpool, restructured: Sequence[NativePage] | None, formats: Sequence[str] | None
) -> Exports:
    """Export the pages that did not fail, as they are in the response. Raises ServiceError."""
    if not formats:
        return Exports()

    def pages() -> Iterator[Page]:
        read = (page for page in spool.pages() if page.error is None)
        if restructured is None:
            yield from read
            return
        for page, native in zip(read, restructured, strict=True):
            paths = {local_figure_path(path, page.number): path for path in spool.figures_of(page.number)}
            exported = from_paddlex(native.result, page.number, paths)
            for block in exported.blocks:
                block.figure = block.figure and paths[block.figure]
            yield exported

    figures = ((path, spool.figure(path) or b"") for path in spool.figure_paths)
    async with writers.slot(len(spool)) as timeout_s:
        return Exports(await page_docx_files(pages, figures, timeout_s=timeout_s))


async def export_uploaded(
    writers: Writers,
    restructured: Sequence[NativePage],
    images: Sequence[dict[str, str]],
    formats: Sequence[str] | None,
) -> Exports:
    """Export pages that a client uploaded, with the `images` of each by path, as base64. Raises ServiceError."""
    if not formats:
        return Exports()

    def pages() -> Iterator[Page]:
        for number, (native, page_images) in enumerate(zip(restructured, images, strict=True), 1):
            page = from_paddlex(native.result, number, page_images)
            for block in page.blocks:
                block.figure = block.figure and f"{number}/{block.figure}"
            yield page

    figures = (
        (f"{number}/{path}", decoded)
        for number, page_images in enumerate(images, 1)
        for path, image in page_images.items()
        if (decoded := _picture(image)) is not None
    )
    async with writers.slot(len(restructured)) as timeout_s:
        return Exports(await page_docx_files(pages, figures, timeout_s=timeout_s))


def _picture(image: str) -> bytes | None:
    """Decode a picture that a client sent, plain or as a data: URI. None for anything else: links are not followed."""
    _, _, encoded = image.rpartition(",")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
