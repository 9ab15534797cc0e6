"""Searchable PDFs are written in a process of their own, as the document comes from anybody.

`python -m serve_app.outputs.pdf_writer PARENT_PID MEMORY_BYTES SOURCE RESULT` reads the password (a line of
JSON) and pages (a line of JSON each) on stdin. It writes the file RESULT, or exits with REFUSED and the
error's code and message, as JSON, on stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from serve_app.child_process import child_environment, die_with, limit_memory, python_module
from serve_app.document import Page
from serve_app.errors import (
    CorruptDocument,
    EmptyDocument,
    PasswordRequired,
    ServiceError,
    TooLarge,
    TooManyPages,
    UnsupportedMediaType,
)
from serve_app.outputs.searchable_pdf import write_searchable_pdf

log = logging.getLogger("ray.serve.ingress")

REFUSED = 3
MEMORY_BYTES = 4 * 2**30
"""Address space of the process; an A4 page at 200 dpi that is kept without loss takes 12 MB of it."""

_ERRORS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (CorruptDocument, EmptyDocument, PasswordRequired, TooLarge, TooManyPages, UnsupportedMediaType)
}


async def searchable_pdf(
    source: bytes | memoryview, pages: Iterable[bytes], *, password: str | None, timeout_s: float
) -> BinaryIO:
    """The PDF as a file, at its beginning, for the caller to close. `pages` are `Page`s as JSON, in order.

    Raises what `write_searchable_pdf` raises; CorruptDocument also if the process dies or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="pdf-") as folder:
        original, result = Path(folder, "source"), Path(folder, "result")
        await asyncio.to_thread(original.write_bytes, source)
        process = await asyncio.create_subprocess_exec(
            *python_module("serve_app.outputs.pdf_writer"),
            *(str(os.getpid()), str(MEMORY_BYTES), str(original), str(result)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=child_environment(),
        )
        try:
            async with asyncio.timeout(timeout_s):
                await _send(process, _lines(password, pages))
                assert process.stdout is not None
                told = await process.stdout.read()
                status = await process.wait()
        except TimeoutError:
            raise CorruptDocument("Writing the PDF took too long; the document may be damaged.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status == REFUSED:
            refusal = json.loads(told)
            raise _ERRORS[refusal["code"]](refusal["message"])
        if status != 0:
            log.warning(
                "the process that writes PDFs ended with status %d on a document of %d bytes", status, len(source)
            )
            raise CorruptDocument("The document is damaged, and no PDF of it could be written.")
        return await asyncio.to_thread(result.open, "rb")  # lives on without its name


def _lines(password: str | None, pages: Iterable[bytes]) -> Iterator[bytes]:
    yield json.dumps(password).encode()
    yield from pages


async def _send(process: asyncio.subprocess.Process, lines: Iterable[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has said why on stdout
        for line in lines:
            process.stdin.write(line + b"\n")
            await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


def main() -> None:
    parent, memory_bytes, source, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    die_with(parent)
    limit_memory(memory_bytes)
    password = json.loads(sys.stdin.buffer.readline())
    pages = (_without_own_text(Page.model_validate_json(line)) for line in sys.stdin.buffer)
    try:
        with source.open("rb") as original, result.open("wb") as file:
            write_searchable_pdf(original, pages, password=password, to=file)
    except ServiceError as error:
        print(json.dumps({"code": error.code, "message": error.message}), flush=True)
        sys.exit(REFUSED)


def _without_own_text(page: Page) -> Page:
    """Text that the PDF has itself is not laid over it a second time."""
    return page.model_copy(update={"blocks": []}) if page.text_source == "text_layer" else page


if __name__ == "__main__":
    main()
