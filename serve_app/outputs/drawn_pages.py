"""Draws pages of a PDF that cannot be kept as they are: PDFium reads files that qpdf refuses."""

from __future__ import annotations

from PIL import Image

from serve_app.document import Page
from serve_app.errors import ServiceError
from serve_app.outputs.pdf_picture import Picture, drawn_picture
from serve_app.raster.canvas import POINTS_PER_INCH
from serve_app.raster.pdf import PdfSource
from serve_app.runtime.mapped_file import FileContent

_FAILED_DPI = 150
_FAILED_MAX_PIXELS = 10**7
"""Limit for a page that failed, whose size is unknown."""


class PageDrawer:
    """Draws pages at the resolution at which they were read. Opens the file when the first page is drawn."""

    def __init__(self, data: FileContent, password: str | None) -> None:
        self._data = data
        self._password = password
        self._source: PdfSource | None = None
        self.numbers: list[int] = []
        """Pages that were drawn."""

    def draw(self, page: Page) -> tuple[Picture, float, float] | None:
        """Return the picture of a page, and its width and height in points; None for a page that failed and cannot be drawn.

        Raises the errors of `PdfSource`.
        """
        self.numbers.append(page.number)
        if self._source is None:
            self._source = PdfSource(self._data, self._password)
        dpi = page.dpi or _FAILED_DPI
        max_pixels = page.width * page.height or _FAILED_MAX_PIXELS
        try:
            drawn = self._source.render(page.number, dpi=dpi, default_dpi=dpi, max_pixels=max_pixels)
        except ServiceError:
            if page.error is None:
                raise
            return None
        height, width, _ = drawn.pixels.shape
        scale = POINTS_PER_INCH / drawn.dpi
        return drawn_picture(Image.fromarray(drawn.pixels)), width * scale, height * scale

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
