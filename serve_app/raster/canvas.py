"""The size in pixels at which a PDF page is drawn."""

from __future__ import annotations

import ctypes
import io
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pypdfium2.raw as pdfium_c

from serve_app.errors import CorruptDocument
from serve_app.raster.images import MAX_SIDE
from serve_app.raster.metadata import MAX_DPI
from serve_app.raster.page_tree import leaves
from serve_app.raster.visibility import COVERING_SHARE, page_objects
from serve_app.runtime.mapped_file import FileContent

POINTS_PER_INCH = 72

SMALLEST_SIDE = 0.01
"""Shortest side of a page in points. A shorter one is taken as this, so that the area is never zero."""

ROUNDING = 1e-3
"""Tolerance in pixels, since sizes are 4-byte floats: a scan that fills its page exactly must not grow by a pixel."""

SMALL_PAGE_INCHES = 4
"""Longest side of a page whose size may be wrong: some programs give a scan the size of a stamp."""

MAX_OBJECTS = 200
"""Objects of a small page among which its picture is looked for. A scan has few."""

LONG_SIDE, LONG_PAGE_DPI = 32_767, 150
"""A page with more pixels in length is drawn coarser, down to this resolution, so that engines whose coordinates have
16 bits read it whole. Letters of 8 points are still legible."""

MAX_USER_UNIT = 75_000  # inches in units of 1/72 inch, as Acrobat has it


@dataclass(frozen=True)
class Canvas:
    """Size of a drawn page in pixels, and its resolution.

    The canvas is the visible part of the page, its crop box, whatever UserUnit is: a point of the drawing at a fraction
    of the width and height is at the same fraction of the crop box, in the PDF's own units.
    """

    width: int
    height: int
    dpi: int


def canvas_of(
    page: Any, number: int, *, user_unit: float, dpi: int | None, default_dpi: int, max_pixels: int
) -> Canvas:
    """Return the size of a page at `dpi`, or at a lower resolution if `max_pixels` and MAX_SIDE require it.

    `user_unit` is the length of the page's unit, in points. Without `dpi`, a small page that shows a picture is drawn at
    the picture's own resolution. If no scanner has that resolution, the page's size is wrong, and the result's `dpi` is
    the default.

    Raises CorruptDocument for a page without a finite size.
    """
    size = [side * user_unit for side in page.get_size()]
    if not all(math.isfinite(side) for side in size):
        raise CorruptDocument(f"Page {number} of the PDF has no usable size.")
    across, down = (max(side, SMALLEST_SIDE) for side in size)
    wanted: float = dpi or default_dpi
    if dpi is None:
        long = max(across, down) / POINTS_PER_INCH
        if long <= SMALL_PAGE_INCHES:
            wanted = max(wanted, _resolution_of_picture(page) / user_unit)
        wanted = min(wanted, max(LONG_SIDE / long, LONG_PAGE_DPI))
    finest = POINTS_PER_INCH * min(math.sqrt(max_pixels / (across * down)), MAX_SIDE / max(across, down))
    # Rounded down to an integer, so the reported dpi is exact.
    true_dpi = wanted if wanted <= finest else finest
    true_dpi = math.floor(true_dpi) or true_dpi
    # Rounded up like other renderers, so boxes match the pixels of clients that render the page themselves.
    width, height = (max(1, math.ceil(side * true_dpi / POINTS_PER_INCH - ROUNDING)) for side in (across, down))
    width = min(width, MAX_SIDE)
    height = min(height, MAX_SIDE, max(max_pixels // width, 1))
    reported = default_dpi if dpi is None and true_dpi > max(MAX_DPI, default_dpi) else max(round(true_dpi), 1)
    return Canvas(min(width, max_pixels), height, reported)


def _resolution_of_picture(page: Any) -> float:
    """Return the resolution, per 72 units, of the finest picture that covers much of the page; 0 if none does."""
    left, bottom, right, top = page.get_bbox()
    area = (right - left) * (top - bottom)
    return max(
        (
            POINTS_PER_INCH * min(pixels[0] / (box[2] - box[0]), pixels[1] / (box[3] - box[1]))
            for pixels, box in _pictures(page)
            if (box[2] - box[0]) * (box[3] - box[1]) >= COVERING_SHARE * area > 0
        ),
        default=0,
    )


def _pictures(page: Any) -> Iterator[tuple[tuple[int, int], tuple[float, float, float, float]]]:
    """Yield the size of each picture in pixels, turned as the picture is, and its box on the page."""
    for item, matrix in islice(page_objects(page), MAX_OBJECTS):
        if item.type != pdfium_c.FPDF_PAGEOBJ_IMAGE:
            continue
        width, height = ctypes.c_uint(), ctypes.c_uint()
        if pdfium_c.FPDFImageObj_GetImagePixelSize(item, width, height):
            placed = item.get_matrix().multiply(matrix)
            pixels = (width.value, height.value)
            yield pixels if abs(placed.a) >= abs(placed.b) else pixels[::-1], placed.on_rect(0, 0, 1, 1)


def user_units(data: FileContent, password: bytes) -> dict[int, float]:
    """Return the page units of a PDF that are not a point (UserUnit), by page number. PDFium ignores them.

    A file that qpdf cannot read has none.
    """
    if data.find(b"/UserUnit") < 0 and data.find(b"/ObjStm") < 0:  # objects may be compressed, in object streams
        return {}
    import pikepdf

    logging.getLogger("pikepdf").setLevel(logging.ERROR)
    try:
        stream = io.BytesIO(data)
        with pikepdf.open(stream, password=password, suppress_warnings=True, inherit_page_attributes=False) as pdf:
            units = {number: _user_unit(page) for number, page in enumerate(leaves(pdf), 1) if page is not None}
    except (pikepdf.PdfError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        return {}
    return {number: unit for number, unit in units.items() if unit != 1}


def _user_unit(leaf: Any) -> float:
    try:
        unit = float(leaf.get("/UserUnit", 1))
    except (TypeError, ValueError, ArithmeticError):
        return 1.0
    return unit if 0 < unit <= MAX_USER_UNIT else 1.0
