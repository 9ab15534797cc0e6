"""Outputs that are made in a process of their own: PDF, as its document comes from anybody, and DOCX, which takes
a megabyte of memory for a page of tables. Both are gone with their process, whenever its reader leaves.

`python -m serve_app.outputs.writer_process PARENT_PID MEMORY_BYTES KIND SOURCE RESULT` reads a line of JSON, its
settings, and pages (a line of JSON each) on stdin. SOURCE and RESULT are descriptors of files. It writes RESULT,
or exits with REFUSED and the error's code and message, as JSON, on stdout.

    KIND  SOURCE                            settings
    pdf   the document's own file           {"password"}
    docx  its pictures, one behind another  {"title", "pictures": {path: [start, size]}}
    pages the same                          {"pictures"}; a ZIP with a DOCX for each page, `page-N.docx`
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, cast

from serve_app.document import Page
from serve_app.document.spool import PageSpool
from serve_app.errors import (
    CorruptDocument,
    DocumentTimeout,
    ServiceError,
    ServiceUnavailable,
    TooLarge,
    document_error,
)
from serve_app.outputs.docx import write_docx
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.runtime.child_process import child_environment, die_with, limit_memory, python_module
from serve_app.runtime.mapped_file import unnamed_file
from serve_app.runtime.temp_dir import is_no_room, no_room
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S

log = logging.getLogger("ray.serve.ingress")

REFUSED = 3
_FORMS = {"pdf": "PDF", "docx": "DOCX", "pages": "DOCX"}
NICE = 10  # a long file is written behind the rest of the service
MEMORY_BYTES = 4 * 2**30
"""Address space of the process; an A4 page at 200 dpi that is kept without loss takes 12 MB of it."""


async def searchable_pdf(
    source: bytes | memoryview, spool: PageSpool, *, password: str | None, timeout_s: float
) -> BinaryIO:
    """The PDF as a file, at its beginning, for the caller to close.

    Raises what `write_searchable_pdf` raises; CorruptDocument also if the process dies, DocumentTimeout if it is late,
    ServiceUnavailable if it is killed twice, or there is no room for the file.
    """
    with await asyncio.to_thread(unnamed_file, source) as original:
        return await _written("pdf", original, {"password": password}, spool.pages_as_json, timeout_s)


async def docx_file(spool: PageSpool, *, title: str, timeout_s: float) -> BinaryIO:
    """The DOCX as a file, at its beginning, for the caller to close. Raises TooLarge, DocumentTimeout and ServiceUnavailable."""
    with cast(BinaryIO, tempfile.TemporaryFile()) as pictures:
        places = _put(((path, spool.figure(path) or b"") for path in spool.figure_paths), pictures)
        return await _written("docx", pictures, {"title": title, "pictures": places}, _dumped(spool.pages), timeout_s)


async def page_docx_files(
    pages: Callable[[], Iterable[Page]], figures: Iterable[tuple[str, bytes]], *, timeout_s: float
) -> BinaryIO:
    """A ZIP with `page-N.docx` for each page, for the caller to close; `figures` by the paths that the pages link.

    Raises what `docx_file` raises.
    """
    with cast(BinaryIO, tempfile.TemporaryFile()) as pictures:
        places = await asyncio.to_thread(_put, figures, pictures)
        return await _written("pages", pictures, {"pictures": places}, _dumped(pages), timeout_s)


def _put(figures: Iterable[tuple[str, bytes]], to: BinaryIO) -> dict[str, tuple[int, int]]:
    places = {}
    for path, jpeg in figures:
        start = to.tell()
        places[path] = start, to.write(jpeg)
    return places


def _dumped(pages: Callable[[], Iterable[Page]]) -> Callable[[], Iterator[bytes]]:
    return lambda: (page.model_dump_json().encode() for page in pages())


async def _written(
    kind: str, source: BinaryIO, settings: dict[str, Any], pages: Callable[[], Iterable[bytes]], timeout_s: float
) -> BinaryIO:
    try:
        return await _tried(kind, source, settings, pages(), timeout_s)
    except _Killed:
        return await _tried(kind, source, settings, pages(), timeout_s)


class _Killed(ServiceUnavailable):
    """By whoever kills processes, which is not the document's doing: a system short of memory, or an operator."""

    default_message = "The file could not be written now; try again shortly."


async def _tried(
    kind: str, source: BinaryIO, settings: dict[str, Any], pages: Iterable[bytes], timeout_s: float
) -> BinaryIO:
    source.seek(0)  # which also writes what was buffered
    result = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller's
    try:
        descriptors = source.fileno(), result.fileno()
        process = await asyncio.create_subprocess_exec(
            *python_module("serve_app.outputs.writer_process"),
            *map(str, (os.getpid(), MEMORY_BYTES, kind, *descriptors)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            env=child_environment(),
        )
        try:
            async with asyncio.timeout(timeout_s):
                await _send(process, _lines(settings, pages))
                assert process.stdout is not None
                told = await process.stdout.read()
                status = await process.wait()
        except TimeoutError:
            raise DocumentTimeout(f"Writing the {_FORMS[kind]} took longer than {timeout_s:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status == REFUSED:
            raise document_error(**json.loads(told))
        if status != 0:
            log.warning("the process that writes a %s ended with status %d", _FORMS[kind], status)
            if status == -signal.SIGKILL:
                raise _Killed(retry_after_s=BUSY_RETRY_AFTER_S)
            if kind != "pdf":
                raise ServiceError
            raise CorruptDocument("The document is damaged, and no PDF of it could be written.")
        result.seek(0)
    except BaseException:
        result.close()
        raise
    return result


def _lines(settings: dict[str, Any], pages: Iterable[bytes]) -> Iterator[bytes]:
    yield json.dumps(settings).encode()
    yield from pages


async def _send(process: asyncio.subprocess.Process, lines: Iterable[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has said why on stdout
        for line in lines:
            process.stdin.write(line + b"\n")
            await process.stdin.drain()
            await asyncio.sleep(0)  # the pipe may take all at once; others want to go on as well
        process.stdin.close()
        await process.stdin.wait_closed()


def main() -> None:
    parent, memory_bytes, kind, source, result = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        *map(int, sys.argv[4:]),
    )
    die_with(parent)
    limit_memory(memory_bytes)
    os.nice(NICE)
    settings = json.loads(sys.stdin.buffer.readline())
    pages = (Page.model_validate_json(line) for line in sys.stdin.buffer)
    try:
        with os.fdopen(source, "rb") as original, os.fdopen(result, "wb") as to:
            if kind == "pdf":
                write_searchable_pdf(original, pages, password=settings["password"], to=to)
            elif kind == "docx":
                write_docx(pages, title=settings["title"], figure=_pictures(original, settings), to=to)
            else:
                _write_pages(original, pages, settings, to)
    except ServiceError as error:
        _refuse(error)
    except OSError as error:
        if not is_no_room(error):
            raise
        _refuse(no_room())
    except MemoryError:
        _refuse(TooLarge(f"The {_FORMS[kind]} of this document needs more memory than this service has for one."))


def _refuse(error: ServiceError) -> None:
    print(json.dumps({"code": error.code, "message": error.message}), flush=True)
    sys.exit(REFUSED)


def _write_pages(pictures: BinaryIO, pages: Iterable[Page], settings: dict[str, Any], to: BinaryIO) -> None:
    with zipfile.ZipFile(to, "w") as archive:  # not compressed: they are
        for page in pages:
            name = f"page-{page.number}"
            file = io.BytesIO()
            write_docx([page], title=name, figure=_pictures(pictures, settings), to=file)
            archive.writestr(f"{name}.docx", file.getbuffer().tobytes())


def _pictures(file: BinaryIO, settings: dict[str, Any]) -> Callable[[str], bytes | None]:
    def picture(path: str) -> bytes | None:
        place = settings["pictures"].get(path)
        return None if place is None else os.pread(file.fileno(), place[1], place[0])

    return picture


if __name__ == "__main__":
    main()
