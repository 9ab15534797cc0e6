"""A document that was read, in whatever form, as a file."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO, cast

from serve_app.document import DocumentSummary
from serve_app.errors import ServiceError
from serve_app.outputs.archive import write_zip
from serve_app.outputs.kinds import IN_ARCHIVE, OutputKind, write_output
from serve_app.outputs.pdf_writer import searchable_pdf
from serve_app.page_spool import PageSpool

BYTES_IN_MEMORY = 4 * 2**20

PDF_PAGE_S = 1.0
"""What a page may add to the time that writing a searchable PDF takes."""


class Renderer:
    """Makes files of the pages in `spool`, and of `source`, the document's own file, where the form asks for it."""

    def __init__(
        self,
        source: Callable[[], Awaitable[bytes | memoryview]],
        spool: PageSpool,
        *,
        password: str | None,
        pdf_places: asyncio.Semaphore,
        decode_s: float,
    ) -> None:
        """`pdf_places`: searchable PDFs that are written at a time. `decode_s`: longest opening of `source`."""
        self._source = source
        self._spool = spool
        self._password = password
        self._pdf_places = pdf_places
        self._decode_s = decode_s

    async def rendered(self, kind: OutputKind, summary: DocumentSummary, *, include_images: bool = False) -> BinaryIO:
        """The document in this form as a file, at its beginning, for the caller to close; small ones are in memory.

        Raises ServiceError where the original cannot be made a PDF of.
        """
        if kind is OutputKind.PDF:
            return await self._pdf()
        file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115 - see above
        try:
            if kind is OutputKind.ZIP:
                await self._archive(summary, file)
            else:
                write = partial(write_output, kind, summary, self._spool, file, include_images=include_images)
                # What is quicker than a thread is found is written at once.
                quick = self._spool.small and kind in (OutputKind.JSON, OutputKind.MARKDOWN, OutputKind.TEXT)
                write() if quick else await asyncio.to_thread(write)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    async def _pdf(self) -> BinaryIO:
        timeout_s = self._decode_s + PDF_PAGE_S * len(self._spool)
        async with self._pdf_places:
            return await searchable_pdf(
                await self._source(), self._spool.pages_as_json(), password=self._password, timeout_s=timeout_s
            )

    async def _archive(self, summary: DocumentSummary, to: BinaryIO) -> None:
        with ExitStack() as opened:
            files: dict[str, BinaryIO] = {}
            for kind, name in IN_ARCHIVE.items():
                try:
                    files[name] = opened.enter_context(await self.rendered(kind, summary))
                except ServiceError as error:
                    files[f"{name}.error.txt"] = io.BytesIO(error.message.encode())
            await asyncio.to_thread(write_zip, files, self._spool, to)
