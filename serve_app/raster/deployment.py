"""The Rasterizer: turns a document's bytes into pages, in a separate decoding process."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar, cast

from serve_app.document import EngineInfo, Page, PageContent, PageImage, PagePart, PageResult, SourceFile
from serve_app.document.markdown import page_markdown
from serve_app.errors import ServiceError
from serve_app.metrics.catalogue import RASTERIZER_BUSY_SECONDS
from serve_app.raster.decoder_client import IsolatedDecoder
from serve_app.runtime import tracing
from serve_app.runtime.allocator import limit_arenas
from serve_app.runtime.serve_log import set_up_log
from serve_app.runtime.temp_dir import use_temp_dir
from serve_app.scheduling.batch_queue import BatchQueue
from serve_app.scheduling.work_meter import BusyClock, WorkMeter
from serve_app.settings import Limits, RasterSettings, resolve

Result = TypeVar("Result")

TEXT_LAYER = EngineInfo(name="text-layer", version=version("pypdfium2"))
"""The engine of a document if no page had to be recognized."""


class Rasterizer:
    """Decodes one page at a time. A file that kills the decoder fails only its own request.

    `document` is the document's id, `data` its file as an array of uint8, `owner` the key's name. Errors are returned as
    values (see errors.py).
    """

    def __init__(self, settings: RasterSettings, limits: Limits, temp_dir: str) -> None:
        limit_arenas()
        set_up_log()
        use_temp_dir(resolve(temp_dir))
        self._decoder = IsolatedDecoder(
            max_pixels=int(limits.image_megapixels * 1e6),
            default_dpi=settings.default_dpi,
            deadline_s=limits.decode_s,
        )
        # A single thread, since the decoding process ends with the thread that started it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rasterizer")
        self._queue: BatchQueue[Callable[[], Any], Any] = BatchQueue(self._run, max_batch=1)
        self._clock = BusyClock()
        self._work = WorkMeter(lambda: self._clock.worked_s)

    async def count_pages(
        self, document: str, data: Any, password: str | None, *, owner: str = ""
    ) -> int | ServiceError:
        """Open a document and count its pages."""
        return await self._submit(self._decoder.count_pages, document, data, password, owner)

    async def rasterize(
        self,
        document: str,
        data: Any,
        password: str | None,
        number: int,
        dpi: int | None,
        part: PagePart | None = None,
        *,
        owner: str = "",
    ) -> PageImage | ServiceError:
        """Decode page `number` (from 1). A PDF page is drawn at `dpi`; for an image it replaces the file's resolution.

        With `part`, the rest of the page is white.
        """
        return await self._submit(self._decode, document, data, password, owner, number, dpi, part)

    async def read_text(
        self, document: str, data: Any, password: str | None, number: int, dpi: int | None, *, owner: str = ""
    ) -> PageResult | ServiceError | None:
        """Read the text layer of page `number`. Returns None if it has none, or an untrustworthy one."""
        return await self._submit(self._read_text, document, data, password, owner, number, dpi)

    async def ping(self) -> bool:
        """Return True: this replica responds."""
        return True

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Measure the work here, for Serve's autoscaler: see WorkMeter.report. Any call on a document counts as a page."""
        return self._work.report()

    def __del__(self) -> None:
        # Submits nothing to the executor: garbage collection may run within its `submit`, whose lock is not reentrant.
        self._thread.shutdown(wait=False)
        self._decoder.close()

    async def _submit(
        self,
        work: Callable[..., Result],
        document: str,
        data: Any,
        password: str | None,
        owner: str,
        *arguments: Any,
    ) -> Result | ServiceError:
        """Queue `work` on a document. Documents take turns, so a long or slow one does not delay the others."""
        source = SourceFile(document, data, password, owner)
        try:
            # The log's request id is in the context.
            call = partial(contextvars.copy_context().run, work, source, *arguments)
            with self._work.page():
                return cast(Result, (await self._queue.submit(call, caller=source.id, owner=source.owner)).result)
        except ServiceError as error:
            return error

    async def _run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        (call,) = calls
        self._clock.start()
        try:
            return [await asyncio.get_running_loop().run_in_executor(self._thread, call)]
        finally:
            RASTERIZER_BUSY_SECONDS.inc(self._clock.busy_s)
            self._clock.stop()
            self._work.done()

    def _read_text(self, source: SourceFile, number: int, dpi: int | None) -> PageResult | None:
        started = time.perf_counter()
        with tracing.stage("text_layer", document=source.id, page=number):
            text_page = self._decoder.text_page(source, number, dpi)
        if text_page is None:
            return None
        page = Page(
            number=number,
            width=text_page.width,
            height=text_page.height,
            dpi=text_page.dpi,
            rotation=text_page.rotation,
            text_source="text_layer",
            text="\n\n".join(block.text for block in text_page.blocks),
            markdown=page_markdown(text_page.blocks),
            blocks=text_page.blocks,
            degraded=bool(text_page.warnings),
            warnings=list(text_page.warnings),
        )
        timings_ms = {"text_layer": (time.perf_counter() - started) * 1000}
        return PageResult(PageContent(page), TEXT_LAYER, timings_ms, text_page.pictures)

    def _decode(self, source: SourceFile, number: int, dpi: int | None, part: PagePart | None) -> PageImage:
        started = time.perf_counter()
        with tracing.stage("rasterize", document=source.id, page=number):
            image = self._decoder.decode(source, number, dpi)
        return PageImage(
            pixels=image.pixels if part is None else part.of(image.pixels),
            number=number,
            dpi=image.dpi,
            rasterize_ms=(time.perf_counter() - started) * 1000,
            warnings=image.warnings,
        )
