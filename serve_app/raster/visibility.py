"""What of a PDF page is seen: which text, pictures and annotations, and which words show on it."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from serve_app.document import Box

MAX_OBJECTS = 50_000
"""Of a page: more are a map, and slow to go through."""

COVERING_SHARE = 0.5
"""Of the page: a picture so large hides the text that was drawn before it, as scanners put theirs over a layer."""

MAX_ANNOTATIONS = 1000
MAX_FORM_DEPTH = 8

MIN_CONTRAST = 16
"""Of 255: the lightest grey that anyone sets text in is well over it, text in the colour of its ground is below."""

PREVIEW_PIXELS = 1_000_000
"""How large the page is drawn to see whether the words are on it: A4 at 72 dpi is half of it."""

_DRAWN_TEXT = (pdfium_c.FPDF_ANNOT_WIDGET, pdfium_c.FPDF_ANNOT_FREETEXT, pdfium_c.FPDF_ANNOT_STAMP)
_UNSEEN_MODES = (pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium_c.FPDF_TEXTRENDERMODE_CLIP)


@dataclass
class Contents:
    """Of a page: addresses of the text objects that are seen, and the share of it that pictures take, at most 1."""

    visible_text: set[int]
    picture_share: float = 0.0


def scan_contents(page: Any) -> Contents | None:
    """None where there is too much to go through."""
    found = Contents(set())
    page_left, page_bottom, page_right, page_top = page.get_bbox()
    area = (page_right - page_left) * (page_top - page_bottom)
    walk = _objects(page, None, pdfium.PdfMatrix())
    for drawn, matrix in itertools.islice(walk, MAX_OBJECTS):
        if drawn.type == pdfium_c.FPDF_PAGEOBJ_TEXT:
            if pdfium_c.FPDFTextObj_GetTextRenderMode(drawn) not in _UNSEEN_MODES:
                found.visible_text.add(address(drawn.raw))
        elif drawn.type == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = drawn.get_matrix().multiply(matrix).on_rect(0, 0, 1, 1)
            across = max(min(right, page_right) - max(left, page_left), 0)
            up = max(min(top, page_top) - max(bottom, page_bottom), 0)
            share = across * up / area
            found.picture_share = min(found.picture_share + share, 1)
            if share >= COVERING_SHARE and not pdfium_c.FPDFPageObj_HasTransparency(drawn):
                found.visible_text.clear()
    return found if next(walk, None) is None else None


def _objects(page: Any, form: Any, matrix: Any, level: int = 0) -> Iterator[tuple[Any, Any]]:
    """The page's objects in the order they are drawn, of forms as well, with what turns their places to the page's."""
    for drawn in page.get_objects(max_depth=1 + level, form=form, level=level):
        yield drawn, matrix
        if drawn.type == pdfium_c.FPDF_PAGEOBJ_FORM and level < MAX_FORM_DEPTH:
            yield from _objects(page, drawn, drawn.get_matrix().multiply(matrix), level + 1)


def has_text_in_annotations(page: Any) -> bool:
    """Whether there are fields of a form, notes or stamps: they are seen, but are no part of the layer."""
    count = pdfium_c.FPDFPage_GetAnnotCount(page)
    return count > MAX_ANNOTATIONS or any(_subtype(page, index) in _DRAWN_TEXT for index in range(count))


def _subtype(page: Any, index: int) -> int:
    annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
    if not annotation:
        return 0
    try:
        subtype: int = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        return subtype
    finally:
        pdfium_c.FPDFPage_CloseAnnot(annotation)


def are_visible(page: Any, boxes: Sequence[Box], width: int, height: int) -> list[bool]:
    """Of each of these boxes, whether anything is to be seen there: not white on white, nor under something.

    They are of the page drawn in `width` x `height` pixels.
    """
    scale = min(1.0, math.sqrt(PREVIEW_PIXELS / max(page.get_width() * page.get_height(), 1)))
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        preview = bitmap.to_numpy()
        down, across = preview.shape[0] / height, preview.shape[1] / width
        return [_has_contrast(preview, box, across, down) for box in boxes]
    finally:
        bitmap.close()


def _has_contrast(preview: npt.NDArray[np.uint8], box: Box, across: float, down: float) -> bool:
    left, top, right, bottom = box
    # A pixel more on each side: there the ground is seen, even around a full stop.
    there = preview[
        max(int(top * down) - 1, 0) : math.ceil(bottom * down) + 1,
        max(int(left * across) - 1, 0) : math.ceil(right * across) + 1,
    ]
    return there.size > 0 and int(there.max()) - int(there.min()) >= MIN_CONTRAST


def address(pointer: Any) -> int:
    """Where the object lies, by which PDFium's handles of it are told to be of the same one; 0 for none."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
