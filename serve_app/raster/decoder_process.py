"""The decoding process: `python -m serve_app.raster.decoder_process PARENT_PID MEMORY_BYTES`.

A request on stdin is a header, perhaps followed by the file. A response on stdout is a header, perhaps followed by
pixels. A header is its length (4 bytes, big-endian) and that many bytes of JSON:

    request   {"document", "size", "password", "max_pixels"}, then `size` bytes of the document's file;
              `size` is 0 if the document is thought to be open already
              for a page also {"page", "dpi", "default_dpi"}; for its text layer also {"text": true}
    response  {"pages"}: the number of pages
              {"text_size"}, then that many bytes: a TextPage as JSON, or null
              {"width", "height", "dpi"}, then width * height * 3 bytes
              {"unknown": true}: the document is not open; send the request again with the file
              {"error": code, "message", "detail"}: `message` is for the client, `detail` for the log

The first header, {}, means that the process is ready. The process ends at the end of stdin, and with its parent.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import TypeAdapter

from serve_app.errors import ServiceError
from serve_app.raster.page_source import PageSource, open_source
from serve_app.raster.text_layer import TextPage
from serve_app.runtime.child_process import enter_child
from serve_app.runtime.mapped_file import MAPPED_BYTES, FileContent, map_file
from serve_app.runtime.temp_dir import has_room, no_room

HEADER_LENGTH = struct.Struct(">I")
TEXT_PAGE: TypeAdapter[TextPage | None] = TypeAdapter(TextPage | None)

OPEN_DOCUMENTS = 8
OPEN_BYTES = 256 * 2**20
"""Bytes of all open documents' files together. The document in use may be larger."""

IDLE_S = 30.0
"""Seconds without a request after which all documents are closed."""

CHUNK_BYTES = 2**20


def pack_header(fields: dict[str, Any]) -> bytes:
    """Encode a header for the pipe, with its length first."""
    encoded = json.dumps(fields).encode()
    return HEADER_LENGTH.pack(len(encoded)) + encoded


def main() -> None:
    requests, responses = _take_over_pipes()
    enter_child()
    _write(responses, pack_header({}))
    documents = OpenDocuments()
    while True:
        if not select.select([requests], [], [], IDLE_S)[0]:  # requests are read completely, so no data is buffered
            documents.close()
        if (fields := _read_header(requests)) is None:
            return
        try:
            _respond(fields, _read_file(requests, fields["size"], documents), documents, responses)
        except ServiceError as error:
            detail = repr(error.__cause__)[:500] if error.__cause__ else ""
            _write(responses, pack_header({"error": error.code, "message": error.message, "detail": detail}))


class OpenDocuments:
    """Keeps the most recently used documents open."""

    def __init__(self) -> None:
        self._sources: OrderedDict[str, tuple[PageSource, int]] = OrderedDict()

    def get(self, document: str) -> PageSource | None:
        if document not in self._sources:
            return None
        self._sources.move_to_end(document)
        return self._sources[document][0]

    def open(self, document: str, data: FileContent, password: str | None, max_pixels: int) -> PageSource:
        """Open a document, and close the one that was used least recently if too many are open.

        Raises what `open_source` raises.
        """
        source = open_source(data, password=password, max_pixels=max_pixels)
        # A document of one page gets no second request.
        if source.page_count > 1:
            self._sources[document] = source, len(data)
        while len(self._sources) > 1 and (
            len(self._sources) > OPEN_DOCUMENTS or sum(size for _, size in self._sources.values()) > OPEN_BYTES
        ):
            _, (oldest, _) = self._sources.popitem(last=False)
            oldest.close()
        return source

    def close(self) -> None:
        while self._sources:
            self._sources.popitem()[1][0].close()


def _respond(fields: dict[str, Any], data: FileContent, documents: OpenDocuments, responses: int) -> None:
    """Write the response to one request. Raises ServiceError before anything is written."""
    source = documents.get(fields["document"])
    if source is None:
        if not data:
            _write(responses, pack_header({"unknown": True}))
            return
        source = documents.open(fields["document"], data, fields["password"], fields["max_pixels"])
    number = fields.get("page")
    if number is None:
        _write(responses, pack_header({"pages": source.page_count}))
        return
    options = {name: fields[name] for name in ("dpi", "default_dpi", "max_pixels")}
    if fields.get("text"):
        text = TEXT_PAGE.dump_json(source.text_page(number, **options))
        _write(responses, pack_header({"text_size": len(text)}))
        _write(responses, text)
        return
    image = source.render(number, **options)
    height, width, _ = image.pixels.shape
    warnings = [warning.model_dump() for warning in image.warnings]
    _write(responses, pack_header({"width": width, "height": height, "dpi": image.dpi, "warnings": warnings}))
    _write(responses, np.ascontiguousarray(image.pixels).data.cast("B"))


def _read_file(requests: BinaryIO, size: int, documents: OpenDocuments) -> FileContent:
    """Read the document's file. If the disk has no room for it, raises ServiceUnavailable after reading it."""
    if size < MAPPED_BYTES:
        return _read_exactly(requests, size)
    if not has_room(Path(tempfile.gettempdir()), size):
        documents.close()  # their temporary files may take the space
    failure: OSError | None = None
    with tempfile.TemporaryFile() as file:
        for start in range(0, size, CHUNK_BYTES):
            chunk = _read_exactly(requests, min(CHUNK_BYTES, size - start))
            if failure is None:
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    failure = error
        if failure is not None:
            raise no_room() from failure
        return map_file(file)


def _read_exactly(requests: BinaryIO, size: int) -> bytes:
    data = requests.read(size)
    if len(data) < size:
        sys.exit("a request ended early")
    return data


def _take_over_pipes() -> tuple[BinaryIO, int]:
    """Reserve stdin and stdout for the protocol. Library output to descriptor 1 is redirected to stderr."""
    requests, responses = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, responses


def _read_header(requests: BinaryIO) -> dict[str, Any] | None:
    """Read the next request's header; None at the end of the stream."""
    prefix = requests.read(HEADER_LENGTH.size)
    if not prefix:
        return None
    fields: dict[str, Any] = json.loads(requests.read(*HEADER_LENGTH.unpack(prefix)))
    return fields


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    main()
