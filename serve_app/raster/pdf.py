"""PDF pages to RGB pixels, with PDFium, in this process.

The bytes are untrusted: run this only in a process that may crash or hang (see `decoder_client`).
Nothing in a document is executed or fetched: pypdfium2's builds lack V8 and XFA, actions are never triggered, and PDFium
does not follow references to other files. Pages include annotations and filled forms. Permission flags of the PDF are
not enforced.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from serve_app.document import ErrorInfo, RgbPixels
from serve_app.document.warnings import WarningCode, warning
from serve_app.errors import (
    CorruptDocument,
    EmptyDocument,
    PasswordRequired,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
)
from serve_app.raster.canvas import Canvas, canvas_of, user_units
from serve_app.raster.fonts import system_fonts
from serve_app.raster.glyphs import undrawn_fonts
from serve_app.raster.images import DecodedImage
from serve_app.raster.passwords import open_with
from serve_app.raster.pdf_repair import repaired
from serve_app.raster.text_layer import TextPage, VisibleText, read_text_layer, read_visible_text
from serve_app.raster.visibility import has_text_in_annotations
from serve_app.runtime.mapped_file import FileContent

PAGES_PER_OPENING = 100
"""Number of pages after which the document is reopened: PDFium holds every object it has read until it is closed."""

MAX_PICTURES_CHECKED, PICTURE_DEPTH = 20, 3
"""Pictures checked on a page that renders blank, and the depth of nested forms searched for them."""

MAX_FONTS_NAMED = 5

_Buffer = bytes | ctypes.Array[ctypes.c_char]

# For documents with XFA forms, it logs advice to install another build.
logging.getLogger("pypdfium2").setLevel(logging.ERROR)


class PdfSource:
    """An opened PDF; see `page_source.PageSource`. A file that PDFium refuses is mended first, if that can be done.

    Raises EmptyDocument for a PDF without pages, PasswordRequired, CorruptDocument, and UnsupportedMediaType
    for a PDF that is encrypted by other means than a password.
    """

    def __init__(self, data: FileContent, password: str | None) -> None:
        self._fonts = system_fonts()
        self._requests_before = self._fonts.requests
        self.is_mended = False
        self._in_vain: list[tuple[ErrorInfo, ...]] = []  # missing fonts of pages that no other font helped
        try:
            self._data: _Buffer = _readable(data)
            self._document, self._password = _open(self._data, password)
        except ServiceError:
            mended = repaired(data, password)
            if mended is None:
                raise
            data = self._data = mended
            self.is_mended = True
            self._document, self._password = _open(mended, None)
        self._file = data
        self._user_units: dict[int, float] | None = None  # read with the first page
        self._pages_loaded = 0
        self.page_count = len(self._document)

    def render(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        image = self._drawn(number, dpi=dpi, default_dpi=default_dpi, max_pixels=max_pixels)
        if not image.warnings or image.warnings in self._in_vain:
            return image
        try:
            with self._fonts.widest_first():
                self._reopen()
                other = self._drawn(number, dpi=dpi, default_dpi=default_dpi, max_pixels=max_pixels)
        finally:
            self._reopen()  # other pages need the usual fonts
        if other.warnings:
            self._in_vain = [*self._in_vain[-9:], image.warnings]
            return image
        return other

    def _drawn(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> DecodedImage:
        with self._page(number) as page:
            canvas = self._canvas(page, number, dpi=dpi, default_dpi=default_dpi, max_pixels=max_pixels)
            try:
                pixels = np.full((canvas.height, canvas.width, 3), 255, np.uint8)
                _draw(page, pixels)
                if _is_blank(pixels) and _has_damaged_picture(page, max_pixels):
                    raise CorruptDocument(f"Page {number} of the PDF is damaged: its picture cannot be decoded.")
            except MemoryError as error:
                raise TooLarge("The page needs more memory than this service allows.") from error
            return DecodedImage(pixels, canvas.dpi, self._font_warnings(page))

    def text_page(self, number: int, *, dpi: int | None, default_dpi: int, max_pixels: int) -> TextPage | None:
        with self._page(number) as page:
            canvas = self._canvas(page, number, dpi=dpi, default_dpi=default_dpi, max_pixels=max_pixels)
            return read_text_layer(page, width=canvas.width, height=canvas.height, dpi=canvas.dpi)

    def visible_text(self, number: int, *, width: int, height: int, dpi: int) -> VisibleText | None:
        """Return what a page shows as text, that of notes and form fields included; see `read_visible_text`."""
        with self._page(number) as page:
            annotated = has_text_in_annotations(page)
            if annotated:
                pdfium_c.FPDFPage_Flatten(page, pdfium_c.FLAT_NORMALDISPLAY)  # in memory alone
        with self._page(number) as page:
            text = read_visible_text(page, width=width, height=height, dpi=dpi)
            return None if text is None else replace(text, annotated=annotated)

    def close(self) -> None:
        self._document.close()

    def _canvas(self, page: Any, number: int, **options: Any) -> Canvas:
        if self._user_units is None:
            self._user_units = user_units(self._file, self._password)
        return canvas_of(page, number, user_unit=self._user_units.get(number, 1.0), **options)

    def _font_warnings(self, page: Any) -> tuple[ErrorInfo, ...]:
        if self._fonts.requests == self._requests_before:
            return ()  # all fonts so far are embedded
        names = undrawn_fonts(page)
        if not names:
            return ()
        listed = ", ".join(names[:MAX_FONTS_NAMED])
        message = (
            f"Some letters are missing or wrong: the PDF does not embed its font ({listed}), and none here has them."
        )
        return (warning(WarningCode.FONT_MISSING, message),)

    def _reopen(self) -> None:
        self._document.close()
        self._document = _opened(self._data, self._password)
        self._pages_loaded = 0

    @contextmanager
    def _page(self, number: int) -> Iterator[Any]:
        if self._pages_loaded >= PAGES_PER_OPENING:
            self._reopen()
        self._pages_loaded += 1
        try:
            page = self._document[number - 1]
        except pdfium.PdfiumError as error:
            raise _damaged(number) from error
        try:
            _show_something(page)
            yield page
        except pdfium.PdfiumError as error:
            raise _damaged(number) from error
        finally:
            page.close()


def _readable(data: FileContent) -> _Buffer:
    """PDFium reads from this memory as long as the document is open."""
    return data if isinstance(data, bytes) else (ctypes.c_char * len(data)).from_buffer(data)


def _open(data: _Buffer, password: str | None) -> tuple[Any, bytes]:
    """Open a document. Returns also the bytes of the password that opened it."""

    def attempt(spelling: bytes) -> tuple[Any, bytes] | None:
        try:
            return _opened(data, spelling), spelling
        except _WrongPassword:
            return None

    opened = open_with(password, attempt)
    if opened is None:
        raise PasswordRequired(
            "The PDF is protected, and the password is wrong."
            if password
            else "The PDF is protected. Send its password in the field 'password' of /ocr or /jobs."
        )
    return opened


def _opened(data: _Buffer, password: bytes) -> Any:
    # PdfDocument(data) would never close a document without pages.
    raw = pdfium_c.FPDF_LoadMemDocument64(data, len(data), password)
    if not raw:
        raise _refusal(pdfium_c.FPDF_GetLastError())
    document = pdfium.PdfDocument(raw)
    if len(document) < 1:
        document.close()
        raise EmptyDocument("The PDF has no pages.")
    document.init_forms()  # must precede the first page, or form fields stay blank
    return document


class _WrongPassword(Exception):
    pass


def _refusal(code: int) -> Exception:
    match code:
        case pdfium_c.FPDF_ERR_PASSWORD:
            return _WrongPassword()
        case pdfium_c.FPDF_ERR_SECURITY:
            return UnsupportedMediaType("The PDF is encrypted by a method that no password can open.")
        case _:
            return CorruptDocument("The PDF is damaged and could not be opened.")


def _damaged(number: int) -> CorruptDocument:
    return CorruptDocument(f"Page {number} of the PDF is damaged and could not be read.")


def _show_something(page: Any) -> None:
    """Make a page whose crop box lies beside its media box show the media box, as other viewers do."""
    left, bottom, right, top = page.get_bbox()
    if not (right > left and top > bottom):
        pdfium_c.FPDFPage_SetCropBox(page, 0, 0, 0, 0)  # PDFium ignores an empty one


def _is_blank(pixels: RgbPixels) -> bool:
    first = pixels[0, 0, 0]
    return bool((pixels[::50, ::50] == first).all() and (pixels == first).all())


def _has_damaged_picture(page: Any, max_pixels: int) -> bool:
    """Whether a picture of the page cannot be decoded. PDFium silently omits such pictures."""
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
    """Draw the page over all of `pixels`, directly into their memory."""
    height, width, _ = pixels.shape
    bitmap = pdfium_c.FPDFBitmap_CreateEx(width, height, pdfium_c.FPDFBitmap_BGR, pixels.ctypes.data, pixels.strides[0])
    if not bitmap:
        raise MemoryError
    try:
        target = (page, 0, 0, width, height, 0, pdfium_c.FPDF_ANNOT | pdfium_c.FPDF_REVERSE_BYTE_ORDER)
        pdfium_c.FPDF_RenderPageBitmap(bitmap, *target)
        if page.formenv:
            pdfium_c.FPDF_FFLDraw(page.formenv, bitmap, *target)
    finally:
        pdfium_c.FPDFBitmap_Destroy(bitmap)
