"""Output formats, by the names that requests use."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import BinaryIO

from serve_app.document import DocumentSummary, Page
from serve_app.document.spool import PageSpool
from serve_app.outputs.alto import alto_document
from serve_app.outputs.hocr import hocr_document
from serve_app.outputs.html import html_document
from serve_app.outputs.json import document_json
from serve_app.outputs.markdown import document_markdown
from serve_app.outputs.options import OutputOptions
from serve_app.outputs.page_xml import write_page_xml
from serve_app.outputs.text import document_text


class OutputFormat(StrEnum):
    JSON = "json"
    MARKDOWN = "markdown"
    TEXT = "text"
    HTML = "html"
    DOCX = "docx"
    PDF = "pdf"
    ZIP = "zip"
    HOCR = "hocr"
    ALTO = "alto"
    PAGE_XML = "page_xml"
    NDJSON = "ndjson"
    EVENTS = "events"


MEDIA_TYPES = {
    OutputFormat.JSON: "application/json",
    OutputFormat.MARKDOWN: "text/markdown",
    OutputFormat.TEXT: "text/plain",
    OutputFormat.HTML: "text/html",
    OutputFormat.DOCX: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    OutputFormat.PDF: "application/pdf",
    OutputFormat.ZIP: "application/zip",
    OutputFormat.HOCR: "text/vnd.hocr+html",
    OutputFormat.ALTO: "application/alto+xml",
    OutputFormat.PAGE_XML: "application/vnd.prima.page+xml",
    OutputFormat.NDJSON: "application/x-ndjson",
    OutputFormat.EVENTS: "text/event-stream",
}
STREAMED = frozenset({OutputFormat.NDJSON, OutputFormat.EVENTS})
"""Formats sent while the document is read. The others are written once it has been read."""
IN_ARCHIVE = {
    OutputFormat.JSON: "result.json",
    OutputFormat.MARKDOWN: "result.md",
    OutputFormat.TEXT: "result.txt",
    OutputFormat.HTML: "result.html",
    OutputFormat.DOCX: "result.docx",
    OutputFormat.PDF: "result.pdf",
}
"""Name in the ZIP archive of each format that is part of it."""

FILE_NAMES = {
    **IN_ARCHIVE,
    OutputFormat.ZIP: "result.zip",
    OutputFormat.HOCR: "result.hocr",
    OutputFormat.ALTO: "result.alto.xml",
    OutputFormat.PAGE_XML: "result.page.xml",
}
"""Name of the stored file in each format."""


def file_type(kind: OutputFormat, pages: int) -> tuple[str, str]:
    """Return the name and the media type of a file with so many pages. PAGE-XML of several pages is a ZIP."""
    if kind is OutputFormat.PAGE_XML and pages != 1:
        return "result.page.zip", MEDIA_TYPES[OutputFormat.ZIP]
    return FILE_NAMES[kind], MEDIA_TYPES[kind]


def write_output(
    kind: OutputFormat, summary: DocumentSummary, spool: PageSpool, to: BinaryIO, options: OutputOptions
) -> None:
    """Write the document page by page. Raises ValueError for the formats that are written in other ways."""
    match kind:
        case OutputFormat.JSON:
            _write(document_json(summary, spool, include_images=options.include_images), to)
        case OutputFormat.MARKDOWN:
            parts = document_markdown(spool.pages(), notes=True, marks=options.page_marks)
            _write_text(_embed_images(parts, spool) if options.include_images else parts, to)
        case OutputFormat.TEXT:
            _write_text(_with_last_newline(document_text(spool.pages(), notes=True, marks=options.page_marks)), to)
        case OutputFormat.HTML:
            _write_text(html_document(spool.pages(), title=summary.id, figure=spool.figure), to)
        case OutputFormat.HOCR:
            _write_text(hocr_document(spool.pages_with_words(), summary, page_count=len(spool)), to)
        case OutputFormat.ALTO:
            _write_text(alto_document(spool.pages_with_words(), summary, labels=_labels(spool.pages())), to)
        case OutputFormat.PAGE_XML:
            write_page_xml(spool.pages_with_words(), summary, page_count=len(spool), to=to)
        case _:
            raise ValueError(f"{kind} is not written page by page")


def _labels(pages: Iterable[Page]) -> list[str]:
    return sorted({block.label for page in pages for block in page.blocks})


def _embed_images(parts: Iterable[str], spool: PageSpool) -> Iterator[str]:
    """Replace each link to a picture by the picture itself, as a data URL."""
    paths = spool.figure_paths
    for part in parts:
        # Chosen first: with its pictures a part is many times as long.
        for path in [path for path in paths if path in part]:
            encoded = base64.b64encode(spool.figure(path) or b"").decode()
            part = part.replace(path, f"data:image/jpeg;base64,{encoded}")
        yield part


def _write_text(parts: Iterable[str], to: BinaryIO) -> None:
    # A lone surrogate from a faulty engine must not make the document fail.
    _write((part.encode("utf-8", "replace") for part in parts), to)


def _with_last_newline(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts, then a newline unless the last one ends with it. An empty text stays empty."""
    end = ""
    for part in parts:
        yield part
        if part:
            end = "" if part.endswith("\n") else "\n"
    yield end


def _write(parts: Iterable[bytes], to: BinaryIO) -> None:
    # Not writelines: a spooled file checks its size only after the last line.
    for part in parts:
        to.write(part)
