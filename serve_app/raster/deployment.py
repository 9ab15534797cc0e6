"""The Rasterizer: a document's bytes in, pages out, with every decoder in a process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serve_app.document import PageImage
from serve_app.errors import ServiceError
from serve_app.raster.isolation import IsolatedDecoder
from serve_app.settings import Limits, RasterSettings


class Rasterizer:
    """Decodes one page at a time; a file that kills its decoder costs its own request only."""

    def __init__(self, settings: RasterSettings, limits: Limits) -> None:
        self._decoder = IsolatedDecoder(
            max_pixels=int(limits.image_megapixels * 1e6),
            default_dpi=settings.default_dpi,
            deadline_s=limits.decode_s,
        )
        # One thread: the decoder's process lives as long as the thread that started it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rasterizer")

    async def rasterize(self, source: bytes, dpi_hint: int | None) -> PageImage | ServiceError:
        """Decode an image file. Errors come back as values (see errors.py)."""
        try:
            # The log's request id is in the context.
            decode = partial(contextvars.copy_context().run, self._decode, source, dpi_hint)
            return await asyncio.get_running_loop().run_in_executor(self._thread, decode)
        except ServiceError as error:
            return error

    def __del__(self) -> None:
        self._thread.submit(self._decoder.close)
        self._thread.shutdown()

    def _decode(self, source: bytes, dpi_hint: int | None) -> PageImage:
        started = time.perf_counter()
        image = self._decoder.decode(source, dpi_hint)
        return PageImage(
            pixels=image.pixels,
            number=1,
            dpi=image.dpi,
            rasterize_ms=(time.perf_counter() - started) * 1000,
        )
