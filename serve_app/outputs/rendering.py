"""Renders a document as a file in any output format."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, cast

from serve_app.document import DocumentSummary
from serve_app.document.spool import PageSpool
from serve_app.errors import QueueFull, ServiceError
from serve_app.metrics.catalogue import OUTPUT_SECONDS
from serve_app.outputs.archive import write_zip
from serve_app.outputs.formats import IN_ARCHIVE, OutputFormat, write_output
from serve_app.outputs.options import DEFAULT, OutputOptions
from serve_app.outputs.writer_client import WrittenFile, docx_file, searchable_pdf
from serve_app.runtime import tracing
from serve_app.runtime.end_line import note_stage
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S
from serve_app.scheduling.fair_queue import FairQueue
from serve_app.settings import Limits

BYTES_IN_MEMORY = 4 * 2**20

PAGE_S = 2.0
"""Seconds by which each page extends the time limit of a process that writes a file."""


class WriterPool:
    """Slots for processes that write a file: each may take a gigabyte. Owners take turns."""

    def __init__(self, most: int, limits: Limits) -> None:
        """At most `most` processes run at the same time."""
        self._free = most
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._limits = limits

    def of(self, owner: str) -> Writers:
        """Return the slots as a key, by its name, may use them."""
        return Writers(self, owner)

    @asynccontextmanager
    async def slot(self, pages: int, owner: str) -> AsyncIterator[float]:
        """Wait for a slot; yields the time limit for writing so many pages, in seconds. Raises QueueFull."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                await self._acquire(owner)
        except TimeoutError:
            raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S) from None
        try:
            yield min(self._limits.decode_s + PAGE_S * pages, self._limits.document_s)
        finally:
            self._release()

    async def _acquire(self, owner: str) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(turn, owner=owner, caller=owner)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.remove(turn, owner=owner, caller=owner)
            if not turn.cancelled():  # it had just got its slot
                self._release()
            raise

    def _release(self) -> None:
        while batch := self._waiting.pop_batch(1):
            if not batch[0].done():  # else its caller has just left
                batch[0].set_result(None)
                return
        self._free += 1


@dataclass(frozen=True)
class Writers:
    """The slots of a pool for one owner."""

    pool: WriterPool
    owner: str

    def slot(self, pages: int) -> AbstractAsyncContextManager[float]:
        """Wait for a slot: see WriterPool."""
        return self.pool.slot(pages, self.owner)


class Renderer:
    """Makes files from the pages in `spool`. A PDF also needs the document's file, which `source` fetches."""

    def __init__(
        self,
        source: Callable[[], Awaitable[bytes | memoryview]],
        spool: PageSpool,
        *,
        password: str | None,
        writers: Writers,
    ) -> None:
        self._source = source
        self._spool = spool
        self._password = password
        self._writers = writers

    async def render(
        self, kind: OutputFormat, summary: DocumentSummary, options: OutputOptions = DEFAULT
    ) -> WrittenFile:
        """Write the document to a file. A small file is in memory.

        Raises ServiceError if a child process cannot write it, or not in time.
        """
        started = time.perf_counter()
        written = await self._measured(kind, summary, options)
        note_stage("write_output", (time.perf_counter() - started) * 1000)
        return written

    async def _measured(self, kind: OutputFormat, summary: DocumentSummary, options: OutputOptions) -> WrittenFile:
        started = time.perf_counter()
        with tracing.stage("write_output", output=kind):
            written = await self._render(kind, summary, options)
        OUTPUT_SECONDS.observe(time.perf_counter() - started, output=kind)
        return written

    async def _render(self, kind: OutputFormat, summary: DocumentSummary, options: OutputOptions) -> WrittenFile:
        if kind in (OutputFormat.PDF, OutputFormat.DOCX):
            return await self._render_in_process(kind, summary, options)
        file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115 - see above
        written = WrittenFile(file)
        try:
            if kind is OutputFormat.ZIP:
                written = await self._archive(summary, file, replace(options, include_images=False))
            else:
                write = partial(write_output, kind, summary, self._spool, file, options)
                # A few pages without pictures are written in less time than a thread takes to start.
                quick = (
                    self._spool.is_in_memory
                    and not options.include_images
                    and kind in (OutputFormat.JSON, OutputFormat.MARKDOWN, OutputFormat.TEXT)
                )
                write() if quick else await asyncio.to_thread(write)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return written

    async def _render_in_process(
        self, kind: OutputFormat, summary: DocumentSummary, options: OutputOptions
    ) -> WrittenFile:
        async with self._writers.slot(len(self._spool)) as timeout_s:
            if kind is OutputFormat.DOCX:
                return WrittenFile(await docx_file(self._spool, title=summary.id, timeout_s=timeout_s))
            source = await self._source()
            return await searchable_pdf(
                source,
                self._spool,
                password=self._password,
                straighten=options.straighten,
                pdf_a=options.pdf_a,
                timeout_s=timeout_s,
            )

    async def _archive(self, summary: DocumentSummary, to: BinaryIO, options: OutputOptions) -> WrittenFile:
        """Write the ZIP, which has the warnings of the PDF in it."""
        archive = WrittenFile(to)
        with ExitStack() as opened:
            files: dict[str, BinaryIO] = {}
            for kind, name in IN_ARCHIVE.items():
                try:
                    written = opened.enter_context(await self._measured(kind, summary, options))
                    files[name] = written.file
                    if kind is OutputFormat.PDF:
                        archive = replace(written, file=to)
                except ServiceError as error:
                    if error.status >= 500:
                        raise  # not the document's fault: a later try may succeed
                    files[f"{name}.error.txt"] = io.BytesIO(error.message.encode())
            await asyncio.to_thread(write_zip, files, self._spool, to)
        return archive
