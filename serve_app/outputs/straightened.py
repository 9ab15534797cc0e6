"""Turns pages of a PDF so that their text is upright and level, as straightened paper would be.

The content stays as it is, vectors and pictures included, and a matrix turns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pikepdf
from pikepdf import Array, Dictionary, Pdf

from serve_app.document import Page
from serve_app.outputs.page_content import balance_states, enclose
from serve_app.outputs.page_notes import flatten_notes
from serve_app.outputs.reading_frame import Matrix, PageFrame, ReadingFrame, multiply, pdf_number, transform

_OLD_BOXES = ("/CropBox", "/BleedBox", "/TrimBox", "/ArtBox", "/Rotate")


@dataclass(frozen=True)
class Turn:
    """How a page is straightened: the way to the new page from the old one, of which `frame` is seen, and the new size."""

    frame: PageFrame
    matrix: Matrix
    width: float
    height: float


def turn_of(page: Page, frame: PageFrame) -> Turn | None:
    """Return how to straighten a page that lies in `frame`; None if it is straight. All that is seen of it stays."""
    if page.error is not None or not (page.rotation or page.skew) or min(page.width, page.height) <= 0:
        return None
    reading = ReadingFrame(page).matrix(frame)
    scale = abs(complex(*reading[:2]))
    turned = multiply(_inverse(reading), (scale, 0, 0, scale, 0, 0))
    left, bottom, right, top = _bounds(turned, _seen(frame))
    return Turn(frame, multiply(turned, (1, 0, 0, 1, -left, -bottom)), right - left, top - bottom)


def turn_pages(pdf: Pdf, turns: Sequence[Turn | None]) -> None:
    """Turn the pages, each with its links. The notes and fields of all pages become part of them."""
    flatten_notes(pdf)
    for page, turn in zip(pdf.pages, turns, strict=True):
        if turn is not None:
            balance_states(pdf, page)
            _turn_page(pdf, page.obj, turn)


def _turn_page(pdf: Pdf, leaf: pikepdf.Object, turn: Turn) -> None:
    left, bottom, right, top = _seen(turn.frame)
    numbers = " ".join(map(pdf_number, turn.matrix))
    seen = " ".join(map(pdf_number, (left, bottom, right - left, top - bottom)))
    enclose(pdf, leaf, pdf.make_stream(f"q {numbers} cm {seen} re W n\n".encode()), b"\nQ\n")
    for key in _OLD_BOXES:
        if key in leaf:
            del leaf[key]
    leaf.MediaBox = Array([0, 0, turn.width, turn.height])
    annotations = leaf.get("/Annots")
    for annotation in annotations if isinstance(annotations, Array) else ():
        rectangle = annotation.get("/Rect") if isinstance(annotation, Dictionary) else None
        if not isinstance(rectangle, Array):
            continue
        with suppress(TypeError):  # not four numbers
            place = pikepdf.Rectangle(rectangle)
            annotation.Rect = Array(_bounds(turn.matrix, (place.llx, place.lly, place.urx, place.ury)))
        if "/QuadPoints" in annotation:
            _turn_points(annotation, turn.matrix)


def _turn_points(annotation: pikepdf.Object, matrix: Matrix) -> None:
    """Turn the corners of the words that an annotation marks. Without usable ones, it marks its rectangle."""
    try:
        numbers = [float(number) for number in annotation.QuadPoints]
        points = [transform(matrix, *point) for point in zip(numbers[::2], numbers[1::2], strict=True)]
        annotation.QuadPoints = Array([side for point in points for side in point])
    except (TypeError, ValueError, ArithmeticError):
        del annotation.QuadPoints


def _seen(frame: PageFrame) -> tuple[float, float, float, float]:
    return frame.left, frame.bottom, frame.left + frame.width, frame.bottom + frame.height


def _bounds(matrix: Matrix, rectangle: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, bottom, right, top = rectangle
    corners = [transform(matrix, x, y) for x in (left, right) for y in (bottom, top)]
    across, up = zip(*corners, strict=True)
    return min(across), min(up), max(across), max(up)


def _inverse(matrix: Matrix) -> Matrix:
    a, b, c, d, e, f = matrix
    area = a * d - b * c
    return d / area, -b / area, -c / area, a / area, (c * f - d * e) / area, (b * e - a * f) / area
