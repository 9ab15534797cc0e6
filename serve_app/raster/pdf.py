"""PDF pages to RGB pixels, with PDFium, in this process.

The bytes are untrusted: run this where a crash or a hang costs nothing else (see `decoder_client`).
Nothing in a document is run or fetched: the builds of pypdfium2 are without V8 and XFA, actions are never
triggered, and PDFium does not follow references to other files. A page is what the file has, annotations and
filled forms included; the permissions that its author wished for are not ours to enforce.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from serve_app.document import RgbPixels
from serve_app.errors import (
    CorruptDocument,
    EmptyDocument,
    PasswordRequired,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
)
from serve_app.raster.images import MAX_SIDE, DecodedImage
from serve_app.raster.text_layer import TextPage, read_text_layer
from serve_app.runtime.mapped_file import FileContent

POINTS_PER_INCH = 72

SMALLEST_SIDE = 0.01
"""Points. A page that is thinner is drawn as if it were this thin, so that its area is a number to divide by."""

ROUNDING = 1e-3
"""Pixels. Sizes are floats of four bytes: a scan that fills its page exactly is not drawn a pixel larger."""

PAGES_PER_OPENING = 100
"""After so many pages the document is opened anew: PDFium keeps every object that it has read until it is closed."""

MAX_PICTURES_CHECKED, PICTURE_DEPTH = 20, 3
"""Of a page that came out blank: how many, and within how many forms within each other."""

# It advises those who read the log of a document with XFA forms to install another build.
logging.getLogger("pypdfium2").setLevel(logging.ERROR)


class PdfSource:
    """An opened PDF; see `page_source.PageSource`.

    Raises EmptyDocument for one without pages, PasswordRequired, CorruptDocument, and UnsupportedMediaType
    for one that is encrypted by other means than a password.
    """

    def __init__(self, data: FileContent, password: str | None) -> None:
        # Memory that PDFium reads from for as long as the document is open.
        self._data = data if isinstance(data, bytes) else (ctypes.c_char * len(data)).from_buffer(data)
        self._password = password
        self._document = _open(self._data, password)
        self._pages_loaded = 0
        self.page_count = len(self._document)

    def render(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        with self._page(number) as page:
            canvas = _canvas(page, number, default_dpi if dpi is None else dpi, max_pixels)
            try:
                pixels = np.full((canvas.height, canvas.width, 3), 255, np.uint8)
                _draw(page, pixels)
                if _is_blank(pixels) and _has_damaged_picture(page, max_pixels):
                    raise CorruptDocument(f"Page {number} of the PDF is damaged: its picture cannot be decoded.")
            except MemoryError as error:
                raise TooLarge("The page needs more memory than this service has for one.") from error
        return DecodedImage(pixels, canvas.dpi)

    def text_page(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> TextPage | None:
        with self._page(number) as page:
            canvas = _canvas(page, number, default_dpi if dpi is None else dpi, max_pixels)
            return read_text_layer(page, width=canvas.width, height=canvas.height, dpi=canvas.dpi)

    def close(self) -> None:
        self._document.close()

    @contextmanager
    def _page(self, number: int) -> Iterator[Any]:
        if self._pages_loaded >= PAGES_PER_OPENING:
            self._document.close()
            self._document = _open(self._data, self._password)
            self._pages_loaded = 0
        self._pages_loaded += 1
        try:
            page = self._document[number - 1]
        except pdfium.PdfiumError as error:
            raise _damaged(number) from error
        try:
            yield page
        except pdfium.PdfiumError as error:
            raise _damaged(number) from error
        finally:
            page.close()


@dataclass(frozen=True)
class _Canvas:
    """What a page is drawn on, in pixels; `dpi` is how finely."""

    width: int
    height: int
    dpi: int


def _open(data: bytes | ctypes.Array[ctypes.c_char], password: str | None) -> Any:
    # Not PdfDocument(data): it leaves a document of zero pages open for ever.
    encoded = password.encode("utf-8", "surrogatepass") if password else None
    raw = pdfium_c.FPDF_LoadMemDocument64(data, len(data), encoded)
    if not raw:
        raise _refusal(pdfium_c.FPDF_GetLastError(), bool(password))
    document = pdfium.PdfDocument(raw)
    if len(document) < 1:
        document.close()
        raise EmptyDocument("The PDF has no pages.")
    document.init_forms()  # before any page is loaded, or the fields stay blank
    return document


def _refusal(code: int, password_sent: bool) -> ServiceError:
    match code:
        case pdfium_c.FPDF_ERR_PASSWORD if password_sent:
            return PasswordRequired("The PDF is protected, and the password sent is not its password.")
        case pdfium_c.FPDF_ERR_PASSWORD:
            return PasswordRequired("The PDF is protected: send its password.")
        case pdfium_c.FPDF_ERR_SECURITY:
            return UnsupportedMediaType("The PDF is encrypted in a way that no password opens.")
        case _:
            return CorruptDocument("The PDF is damaged and could not be opened.")


def _damaged(number: int) -> CorruptDocument:
    return CorruptDocument(f"Page {number} of the PDF is damaged and could not be read.")


def _canvas(page: Any, number: int, dpi: int, max_pixels: int) -> _Canvas:
    """How large a page comes out at `dpi`, or at as much less as `max_pixels` and MAX_SIDE ask for."""
    size = page.get_size()
    if not all(math.isfinite(side) for side in size):
        raise CorruptDocument(f"Page {number} of the PDF has no usable size.")
    across, down = (max(side, SMALLEST_SIDE) for side in size)
    finest = POINTS_PER_INCH * min(math.sqrt(max_pixels / (across * down)), MAX_SIDE / max(across, down))
    # A whole number, so that what is told of the page is what was done.
    true_dpi = dpi if dpi <= finest else math.floor(finest) or finest
    # Rounded up, as others do: boxes of clients who draw the page themselves are on the same pixels.
    width, height = (max(1, math.ceil(side * true_dpi / POINTS_PER_INCH - ROUNDING)) for side in (across, down))
    width = min(width, MAX_SIDE)
    height = min(height, MAX_SIDE, max(max_pixels // width, 1))
    return _Canvas(min(width, max_pixels), height, max(round(true_dpi), 1))


def _is_blank(pixels: RgbPixels) -> bool:
    first = pixels[0, 0, 0]
    return bool((pixels[::50, ::50] == first).all() and (pixels == first).all())


def _has_damaged_picture(page: Any, max_pixels: int) -> bool:
    """Whether something that belongs on the page is missing: PDFium leaves out what it cannot decode, and does not tell."""
    pictures = page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=PICTURE_DEPTH)
    for picture in islice(pictures, MAX_PICTURES_CHECKED):
        width, height = ctypes.c_uint(), ctypes.c_uint()
        if not pdfium_c.FPDFImageObj_GetImagePixelSize(picture, width, height):
            return True
        if width.value * height.value <= max_pixels:
            bitmap = pdfium_c.FPDFImageObj_GetBitmap(picture)
            if not bitmap:
                return True
            pdfium_c.FPDFBitmap_Destroy(bitmap)
    return False


def _draw(page: Any, pixels: RgbPixels) -> None:
    """Draw the page over all of `pixels`, straight into its memory."""
    height, width, _ = pixels.shape
    bitmap = pdfium_c.FPDFBitmap_CreateEx(width, height, pdfium_c.FPDFBitmap_BGR, pixels.ctypes.data, pixels.strides[0])
    if not bitmap:
        raise MemoryError
    try:
        where = (page, 0, 0, width, height, 0, pdfium_c.FPDF_ANNOT | pdfium_c.FPDF_REVERSE_BYTE_ORDER)
        pdfium_c.FPDF_RenderPageBitmap(bitmap, *where)
        if page.formenv:
            pdfium_c.FPDF_FFLDraw(page.formenv, bitmap, *where)
    finally:
        pdfium_c.FPDFBitmap_Destroy(bitmap)
