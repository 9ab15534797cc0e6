"""Finds out which text of a PDF page is visible, and how much of the page pictures cover."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from serve_app.document import Box
from serve_app.raster.clips import area_of, clipped, common_part
from serve_app.raster.text_layout import FloatBox

MAX_OBJECTS = 50_000
"""Most objects of a page. A page with more is a map, and slow to process."""

COVERING_SHARE = 0.5
"""Least share of the page that a picture covers if it is a scan. Scanners put it over the text layer, so whether the drawing
has contrast in the place of a text says nothing."""

MAX_ANNOTATIONS = 1000
MAX_FORM_DEPTH = 8

MIN_CONTRAST = 16
"""Least difference of grey levels (of 255) of visible text. Light grey text has far more, text in the background colour
less."""

PREVIEW_PIXELS = 1_000_000
"""Size of the drawing on which words are checked for contrast. A4 at 72 dpi is half of it."""

Preview = npt.NDArray[np.uint8]
"""A grey drawing of a page, of shape (height, width) or (height, width, 1)."""

_TEXT_ANNOTATIONS = (pdfium_c.FPDF_ANNOT_WIDGET, pdfium_c.FPDF_ANNOT_FREETEXT, pdfium_c.FPDF_ANNOT_STAMP)
INVISIBLE_MODES = (pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium_c.FPDF_TEXTRENDERMODE_CLIP)


@dataclass
class Contents:
    """A page's text objects but those of invisible modes, its pictures, and the share of the page that they cover, at most 1.

    Texts are page objects with their boxes, and `pictures` are boxes: left, bottom, right, top on the page in points, from
    the bottom left. `has_cover`: one of the pictures may cover as much of the page as a scan.
    """

    texts: list[tuple[Any, FloatBox]] = field(default_factory=list)
    pictures: list[FloatBox] = field(default_factory=list)
    picture_share: float = 0.0
    has_cover: bool = False


def scan_contents(page: Any) -> Contents | None:
    """Scan a page's objects. Returns None if there are more than MAX_OBJECTS."""
    found = Contents()
    page_box: FloatBox = page.get_bbox()
    walk = page_objects(page)
    for item, matrix in itertools.islice(walk, MAX_OBJECTS):
        if item.type == pdfium_c.FPDF_PAGEOBJ_TEXT:
            if pdfium_c.FPDFTextObj_GetTextRenderMode(item) not in INVISIBLE_MODES:
                box = matrix.on_rect(*item.get_bounds())
                found.texts.append((item, common_part(box, page_box) if all(map(math.isfinite, box)) else page_box))
        elif item.type == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            box = common_part(item.get_matrix().multiply(matrix).on_rect(0, 0, 1, 1), page_box)
            box = clipped(box, item, matrix)
            share = area_of(box) / area_of(page_box)
            if share > 0:
                found.pictures.append(box)
            found.picture_share = min(found.picture_share + share, 1)
            found.has_cover = found.has_cover or share >= COVERING_SHARE
    return found if next(walk, None) is None else None


def page_objects(page: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the objects of a page and its forms in drawing order, each with the matrix from its form to the page."""
    return _objects(page, None, pdfium.PdfMatrix())


def _objects(page: Any, form: Any, matrix: Any, level: int = 0) -> Iterator[tuple[Any, Any]]:
    for item in page.get_objects(max_depth=1 + level, form=form, level=level):
        yield item, matrix
        if item.type == pdfium_c.FPDF_PAGEOBJ_FORM and level < MAX_FORM_DEPTH:
            yield from _objects(page, item, item.get_matrix().multiply(matrix), level + 1)


def has_text_in_annotations(page: Any) -> bool:
    """Whether the page has form fields, notes or stamps, whose visible text is not in the text layer."""
    count = pdfium_c.FPDFPage_GetAnnotCount(page)
    return count > MAX_ANNOTATIONS or any(_subtype(page, index) in _TEXT_ANNOTATIONS for index in range(count))


def _subtype(page: Any, index: int) -> int:
    annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
    if not annotation:
        return 0
    try:
        subtype: int = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        return subtype
    finally:
        pdfium_c.FPDFPage_CloseAnnot(annotation)


def draw_preview(page: Any, width: int, dpi: int) -> Preview:
    """Draw the page in grey, small; `width` and `dpi` are those of the page as it is recognized."""
    unit = max(round(72 * width / dpi / max(page.get_width(), 1)), 1)
    scale = min(unit, math.sqrt(PREVIEW_PIXELS / max(page.get_width() * page.get_height(), 1)))
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        return np.array(bitmap.to_numpy())
    finally:
        bitmap.close()


def are_drawn(
    page: Any, preview: Preview, texts: Sequence[Any], boxes: Sequence[Box], width: int, height: int, dpi: int
) -> list[bool]:
    """Return for each text object whether the page would look other without it.

    So text counts whatever clips, transparency and layers do to the pictures over it, and to itself. `boxes` are those of
    the texts, in pixels of the page drawn at `width` x `height` and `dpi`; `preview` is its drawing by `draw_preview`.
    """
    try:
        for text in texts:
            pdfium_c.FPDFPageObj_SetIsActive(text, False)
        without = draw_preview(page, width, dpi)
    finally:
        for text in texts:
            pdfium_c.FPDFPageObj_SetIsActive(text, True)
    changed = (
        np.abs(preview.reshape(preview.shape[:2]).astype(int) - without.reshape(preview.shape[:2])) >= MIN_CONTRAST
    )
    sums = np.pad(
        changed.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0))
    )  # a large box takes no longer than a small one
    down, across = preview.shape[0] / height, preview.shape[1] / width
    areas = [_area(box, across, down) for box in boxes]
    ends = [[side.indices(length)[:2] for side, length in zip(area, changed.shape, strict=True)] for area in areas]
    return [
        bool(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
        for (top, bottom), (left, right) in ends
    ]


def are_visible(preview: Preview, boxes: Sequence[Box], width: int, height: int) -> list[bool]:
    """Return for each box whether anything is visible there. Text may be white on white, or covered.

    Boxes are in pixels of the page drawn at `width` x `height`; `preview` is its drawing by `draw_preview`.
    """
    down, across = preview.shape[0] / height, preview.shape[1] / width
    return [_has_contrast(preview, box, across, down) for box in boxes]


def _has_contrast(preview: Preview, box: Box, across: float, down: float) -> bool:
    area = preview[_area(box, across, down)]
    return area.size > 0 and int(area.max()) - int(area.min()) >= MIN_CONTRAST


def _area(box: Box, across: float, down: float) -> tuple[slice, slice]:
    """Return the rows and columns of a box: one more on each side includes background, even around a full stop."""
    left, top, right, bottom = box
    return (
        slice(max(int(top * down) - 1, 0), math.ceil(bottom * down) + 1),
        slice(max(int(left * across) - 1, 0), math.ceil(right * across) + 1),
    )


def address(pointer: Any) -> int:
    """Return the address of the object behind a PDFium handle, to compare handles; 0 for a null handle."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
