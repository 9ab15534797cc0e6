"""Output formats, by the names that requests use."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import BinaryIO

from serve_app.document import DocumentSummary
from serve_app.document.spool import PageSpool
from serve_app.outputs.html import html_document
from serve_app.outputs.json import document_json
from serve_app.outputs.markdown import document_markdown
from serve_app.outputs.options import OutputOptions
from serve_app.outputs.text import document_text


class OutputFormat(StrEnum):
    JSON = "json"
    MARKDOWN = "markdown"
    TEXT = "text"
    HTML = "html"
    DOCX = "docx"
    PDF = "pdf"
    ZIP = "zip"
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

FILE_NAMES = {**IN_ARCHIVE, OutputFormat.ZIP: "result.zip"}
"""Name of the stored file in each format."""


def write_output(
    kind: OutputFormat, summary: DocumentSummary, spool: PageSpool, to: BinaryIO, options: OutputOptions
) -> None:
    """Write the document as JSON, Markdown, text or HTML. Raises ValueError for other formats."""
    match kind:
        case OutputFormat.JSON:
            _write(document_json(summary, spool, include_images=options.include_images), to)
        case OutputFormat.MARKDOWN:
            parts = document_markdown(spool.pages(), notes=True)
            _write_text(_embed_images(parts, spool) if options.include_images else parts, to)
        case OutputFormat.TEXT:
            _write_text(_with_last_newline(document_text(spool.pages(), notes=True)), to)
        case OutputFormat.HTML:
            _write_text(html_document(spool.pages(), title=summary.id, figure=spool.figure), to)
        case _:
            raise ValueError(f"{kind} is not written page by page")


def _embed_images(parts: Iterable[str], spool: PageSpool) -> Iterator[str]:
    """Replace each link to a picture by the picture itself, as a data URL."""
    paths = spool.figure_paths
    for part in parts:
        for path in paths:
            if path in part:
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
