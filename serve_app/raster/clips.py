"""Clips of a PDF page, which leave only a part of a picture to be seen."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import pypdfium2.raw as pdfium_c

from serve_app.raster.text_layout import FloatBox

MAX_CLIPS, MAX_SEGMENTS = 16, 16
"""Most clips of a picture, and segments of each, that are looked at. A rectangle has four or five."""

_EQUAL = 0.01  # points


def rectangle_of(points: Iterable[tuple[float, float]]) -> tuple[FloatBox, bool]:
    """Return the bounds (left, bottom, right, top) of a path's points, and whether the path is a level rectangle."""
    across, up = zip(*(points := list(points)), strict=True)
    box = left, bottom, right, top = min(across), min(up), max(across), max(up)
    corners = set()
    for x, y in points:
        at_right, at_top = right - x < x - left, top - y < y - bottom
        if abs(x - (right if at_right else left)) > _EQUAL or abs(y - (top if at_top else bottom)) > _EQUAL:
            return box, False
        corners.add((at_right, at_top))
    return box, len(corners) == 4


def common_part(box: FloatBox, other: FloatBox) -> FloatBox:
    """Return what two boxes share. It has no width or no height if that is nothing."""
    left, bottom = max(box[0], other[0]), max(box[1], other[1])
    return left, bottom, max(min(box[2], other[2]), left), max(min(box[3], other[3]), bottom)


def area_of(box: FloatBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def clipped(box: FloatBox, item: Any, matrix: Any) -> FloatBox:
    """Return the part of `box` within the bounds of the clips of a page object.

    `matrix` leads from the object's form to the page, in whose points `box` is. PDFium does not tell of clips made of letters.
    """
    path = pdfium_c.FPDFPageObj_GetClipPath(item)
    count = max(pdfium_c.FPDFClipPath_CountPaths(path), 0) if path else 0
    for index in range(min(count, MAX_CLIPS)):
        segments = pdfium_c.FPDFClipPath_CountPathSegments(path, index)
        if 0 < segments <= MAX_SEGMENTS:
            points = [_point(pdfium_c.FPDFClipPath_GetPathSegment(path, index, number)) for number in range(segments)]
            bounds, _ = rectangle_of(matrix.on_point(x, y) for x, y in points)
            box = common_part(box, bounds)
    return box


def _point(segment: Any) -> tuple[float, float]:
    x, y = ctypes.c_float(), ctypes.c_float()
    pdfium_c.FPDFPathSegment_GetPoint(segment, x, y)
    return x.value, y.value
