"""Writes PDF and DOCX in a child process, one for each file: see writer_process.py.

The file behind a PDF is untrusted, and a DOCX takes a megabyte of memory for a page of tables. This module does not import
what writes them, which takes a replica a fifth of a second of CPU to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, TypeVar, cast

from serve_app.document import Page
from serve_app.document.figures import OVERLAYS, PICTURES
from serve_app.document.spool import PageSpool
from serve_app.document.warnings import WarningCode
from serve_app.errors import CorruptDocument, DocumentTimeout, ServiceError, ServiceUnavailable, document_error
from serve_app.metrics.catalogue import WRITER_DEATHS
from serve_app.outputs.writer_exit import FORMAT_NAMES, NOT_KEPT, REFUSED, PagesNotKept
from serve_app.runtime.child_process import child_command, child_environment, exit_reason
from serve_app.runtime.mapped_file import unnamed_file
from serve_app.runtime.work_limit import WorkLimit
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S

log = logging.getLogger("ray.serve.ingress")

Result = TypeVar("Result")

MEMORY_BYTES = 4 * 2**30
"""Address space of the process. An A4 page at 200 dpi that is stored losslessly takes 12 MB of it."""


_KEEPING_ATTEMPTS = 3
"""Most attempts at a PDF that keep its pages, before one that draws all. Pages may be found odd when they are copied, and again when
PDF/A is made of them."""


@dataclass(frozen=True)
class WrittenFile:
    """A temporary file, positioned at its start, which the caller closes.

    `warnings` are codes; `pages_drawn` are the numbers of the pages of a PDF that could not be kept, and are pictures now.
    """

    file: BinaryIO
    warnings: tuple[str, ...] = ()
    pages_drawn: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


async def searchable_pdf(
    source: bytes | memoryview,
    spool: PageSpool,
    *,
    password: str | None,
    straighten: bool = False,
    pdf_a: bool = False,
    timeout_s: float,
) -> WrittenFile:
    """Write the PDF. Pages of a PDF that cannot be kept are drawn, with the warning `pages_drawn`.

    Raises what `write_searchable_pdf` raises; CorruptDocument also if the process dies, DocumentTimeout if its
    attempts together take `timeout_s`, and ServiceUnavailable if the process is killed twice or the disk is full.
    """
    limit = WorkLimit(timeout_s)
    with await asyncio.to_thread(unnamed_file, source) as original:
        settings: dict[str, Any] = {"password": password, "straighten": straighten, "pdf_a": pdf_a}
        draw: set[int] = set()
        for _ in range(_KEEPING_ATTEMPTS):
            try:
                return await _write("pdf", original, {**settings, "draw": sorted(draw)}, spool.pages_as_json, limit)
            except PagesNotKept as error:
                draw.update(error.positions)
                log.info("the PDF is written anew, with %d pages drawn", len(draw))
            except CorruptDocument as error:
                log.info("the PDF is written anew, with its pages drawn: %s", error.message)
                break
        return await _write("pdf", original, {**settings, "draw_all": True}, spool.pages_as_json, limit)


async def docx_file(spool: PageSpool, *, title: str, timeout_s: float) -> BinaryIO:
    """Write the DOCX to a temporary file, positioned at its start, which the caller closes.

    Raises TooLarge, DocumentTimeout and ServiceUnavailable.
    """
    with cast(BinaryIO, tempfile.TemporaryFile()) as pictures:
        shown = [path for path in spool.figure_paths if not path.startswith((OVERLAYS, PICTURES))]
        ranges = await asyncio.to_thread(_concatenate, ((path, spool.figure(path) or b"") for path in shown), pictures)
        settings = {"title": title, "pictures": ranges}
        return (await _write("docx", pictures, settings, _as_json(spool.pages), WorkLimit(timeout_s))).file


async def page_docx_files(
    pages: Callable[[], Iterable[Page]], figures: Iterable[tuple[str, bytes]], *, timeout_s: float
) -> BinaryIO:
    """Write a ZIP with `page-N.docx` for each page to a temporary file, which the caller closes.

    `figures` are (path, JPEG) pairs; pages refer to them by path. Raises what `docx_file` raises.
    """
    with cast(BinaryIO, tempfile.TemporaryFile()) as pictures:
        ranges = await asyncio.to_thread(_concatenate, figures, pictures)
        return (await _write("pages", pictures, {"pictures": ranges}, _as_json(pages), WorkLimit(timeout_s))).file


def _concatenate(figures: Iterable[tuple[str, bytes]], to: BinaryIO) -> dict[str, tuple[int, int]]:
    """Write the figures one after another; returns (start, size) by path."""
    ranges = {}
    for path, jpeg in figures:
        start = to.tell()
        ranges[path] = start, to.write(jpeg)
    return ranges


def _as_json(pages: Callable[[], Iterable[Page]]) -> Callable[[], Iterator[bytes]]:
    return lambda: (page.model_dump_json().encode() for page in pages())


async def _write(
    kind: str, source: BinaryIO, settings: dict[str, Any], pages: Callable[[], Iterable[bytes]], limit: WorkLimit
) -> WrittenFile:
    try:
        return await _run_writer(kind, source, settings, pages(), limit)
    except _Killed:
        return await _run_writer(kind, source, settings, pages(), limit)


class _Killed(ServiceUnavailable):
    """The process got SIGKILL, which no document causes: the system is short of memory, or an operator sent it."""

    default_message = "The file could not be written now; try again shortly."


async def _run_writer(
    kind: str, source: BinaryIO, settings: dict[str, Any], pages: Iterable[bytes], limit: WorkLimit
) -> WrittenFile:
    source.seek(0)  # also flushes
    result = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller's
    try:
        descriptors = source.fileno(), result.fileno()
        process = await asyncio.create_subprocess_exec(
            *child_command("serve_app.outputs.writer_process", MEMORY_BYTES, kind, *descriptors),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            env=child_environment(),
        )
        try:
            limit.watch(process.pid)
            lines = itertools.chain([json.dumps(settings).encode()], pages)
            printed, status = await _within(limit, _written(process, lines))
        except TimeoutError:
            WRITER_DEATHS.inc(output=FORMAT_NAMES[kind].lower(), reason="timeout")
            raise DocumentTimeout(f"Writing the {FORMAT_NAMES[kind]} took longer than {limit.seconds:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status == NOT_KEPT:
            raise PagesNotKept(json.loads(printed))
        if status == REFUSED:
            raise document_error(**json.loads(printed))
        if status != 0:
            log.warning("the process that writes a %s ended: %s", FORMAT_NAMES[kind], exit_reason(status))
            killed = status == -signal.SIGKILL
            WRITER_DEATHS.inc(output=FORMAT_NAMES[kind].lower(), reason="killed" if killed else "died")
            if killed:
                raise _Killed(retry_after_s=BUSY_RETRY_AFTER_S)
            if kind != "pdf":
                raise ServiceError
            raise CorruptDocument("The document is damaged, and no PDF of it could be written.")
        result.seek(0)
    except BaseException:
        result.close()
        raise
    drawn = tuple(map(int, printed.split()))
    return WrittenFile(result, (WarningCode.PAGES_DRAWN,) if drawn else (), drawn)


async def _within(limit: WorkLimit, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work returns. Raises TimeoutError if its time is over before."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            left = limit.left()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait([task], timeout=left)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _written(process: asyncio.subprocess.Process, lines: Iterable[bytes]) -> tuple[bytes, int]:
    await _send(process, lines)
    assert process.stdout is not None
    return await process.stdout.read(), await process.wait()


async def _send(process: asyncio.subprocess.Process, lines: Iterable[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the process printed its error and ended
        for line in lines:
            process.stdin.write(line + b"\n")
            await process.stdin.drain()
            await asyncio.sleep(0)  # the pipe may accept everything at once; other tasks need their turn
        process.stdin.close()
        await process.stdin.wait_closed()
