"""Writes the JSON of a document page by page, so that the whole is never in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from serve_app.document import Document, DocumentSummary
from serve_app.document.spool import PageSpool
from serve_app.outputs.markdown import document_markdown
from serve_app.outputs.text import document_text


def document_json(summary: DocumentSummary, spool: PageSpool, *, include_images: bool) -> Iterator[bytes]:
    """Yield a `Document` as JSON in UTF-8, with the fields in the order of the class."""
    fields = summary.model_dump(mode="json")
    separator = b"{"
    for name in Document.model_fields:
        yield separator + _encode(name) + b":"
        separator = b","
        if name == "pages":
            before = b"["
            for page in spool.pages_as_json():
                yield before + page
                before = b","
            yield b"]" if before == b"," else b"[]"
        elif name in ("text", "markdown"):
            parts = document_text(spool.pages()) if name == "text" else document_markdown(spool.pages())
            yield b'"'
            for part in parts:
                yield _encode(part)[1:-1]
            yield b'"'
        elif name == "images":
            yield b"{"
            for index, path in enumerate(spool.figure_paths if include_images else []):
                image = base64.b64encode(spool.figure(path) or b"")
                yield b"," * (index > 0) + _encode(path) + b':"' + image + b'"'
            yield b"}"
        else:
            yield _encode(fields[name])
    yield b"}"


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
