"""The reading frame of a page: its picture turned so that its text stands upright and level, in pixels, origin top left."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.document import Block, Box, Page, Word

Matrix = tuple[float, float, float, float, float, float]
"""a b c d e f as PDF writes them: x' = ax + cy + e, y' = bx + dy + f."""


@dataclass(frozen=True)
class PageFrame:
    """Position of a page's picture in the PDF's user space, in its units.

    left, bottom, width and height describe the visible box before viewers turn it `rotate` degrees clockwise
    (0, 90, 180 or 270).
    """

    left: float
    bottom: float
    width: float
    height: float
    rotate: int

    def user_space(self, across: float, down: float) -> tuple[float, float]:
        """Map a point of the picture to user space.

        `across` is a fraction of the width, from the left; `down` a fraction of the height, from the top.
        """
        right, up = {
            0: (across, 1 - down),
            90: (down, across),
            180: (1 - across, down),
            270: (1 - down, 1 - across),
        }[self.rotate]
        return self.left + right * self.width, self.bottom + up * self.height


class ReadingFrame:
    """The way from a page's picture to its reading frame, and on to the PDF page.

    `height` is the frame's, in pixels; `skew` the page's, in radians. Text of a crooked page may lie beyond the frame's edges.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        width, self.height = (page.height, page.width) if page.rotation in (90, 270) else (page.width, page.height)
        self._middle = width / 2, self.height / 2
        self.skew = math.radians(page.skew)

    def box(self, item: Word | Block) -> Box:
        """Map a word's or block's box on the page's picture to the frame."""
        if not self.skew:
            left, top, right, bottom = self._upright(*item.bbox)
            return int(left), int(top), int(right), int(bottom)
        left, top, right, bottom = item.bbox
        corners = item.polygon or [(left, top), (right, top), (right, bottom), (left, bottom)]
        across, down = zip(*(self._level(*self._upright(x, y, x, y)[:2]) for x, y in corners), strict=True)
        return round(min(across)), round(min(down)), round(max(across)), round(max(down))

    def matrix(self, frame: PageFrame) -> Matrix:
        """Return the matrix from the reading frame, with y upwards from its lower edge, to user space."""
        page, width, height = self._page, self._page.width, self._page.height
        # The upright picture's lower left corner, as fractions of the picture, and the directions of x and of y there.
        (across, down), (x_across, x_down), (y_across, y_down) = {
            90: ((0, 0), (0, 1 / height), (1 / width, 0)),
            180: ((1, 0), (-1 / width, 0), (0, 1 / height)),
            270: ((1, 1), (0, -1 / height), (-1 / width, 0)),
        }.get(page.rotation, ((0, 1), (1 / width, 0), (0, -1 / height)))
        e, f = frame.user_space(across, down)
        a, b = frame.user_space(across + x_across, down + x_down)
        c, d = frame.user_space(across + y_across, down + y_down)
        matrix = (a - e, b - f, c - e, d - f, e, f)
        return multiply(turning(self.skew, self._middle), matrix) if self.skew else matrix

    def upright_matrix(self, frame: PageFrame, bounds: tuple[float, float, float, float]) -> Matrix:
        """Return the matrix that shows the reading frame upright on the page, in its middle and as large as fits.

        `bounds` (left, bottom, right, top, with y upwards) are those of the text, which may lie beyond the frame's edges.
        """
        page, (middle, _) = self._page, self._middle
        left, bottom, right, top = bounds
        left, bottom, right, top = min(left, 0), min(bottom, 0), max(right, 2 * middle), max(top, self.height)
        scale = min(page.width / (right - left), page.height / (top - bottom))
        start = page.width / 2 - scale * (left + right) / 2
        end = page.height / 2 + scale * (bottom + top) / 2
        e, f = frame.user_space(start / page.width, end / page.height)
        a, b = frame.user_space((start + scale) / page.width, end / page.height)
        c, d = frame.user_space(start / page.width, (end - scale) / page.height)
        return a - e, b - f, c - e, d - f, e, f

    def _upright(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        width, height = self._page.width, self._page.height
        match self._page.rotation:
            case 90:
                return top, width - right, bottom, width - left
            case 180:
                return width - right, height - bottom, width - left, height - top
            case 270:
                return height - bottom, left, height - top, right
            case _:
                return left, top, right, bottom

    def _level(self, x: float, y: float) -> tuple[float, float]:
        # y points downwards here, so what turns clockwise with y upwards turns counter-clockwise.
        return transform(turning(self.skew, self._middle), x, y)


def turning(angle: float, middle: tuple[float, float]) -> Matrix:
    """Return the matrix that turns clockwise by `angle` radians around `middle`, with y upwards."""
    (x, y), cosine, sine = middle, math.cos(angle), math.sin(angle)
    return cosine, -sine, sine, cosine, x - cosine * x - sine * y, y + sine * x - cosine * y


def multiply(first: Matrix, second: Matrix) -> Matrix:
    """Return the matrix that does what `first` does and then what `second` does."""
    a, b, c, d, e, f = first
    return (
        a * second[0] + b * second[2],
        a * second[1] + b * second[3],
        c * second[0] + d * second[2],
        c * second[1] + d * second[3],
        *transform(second, e, f),
    )


def transform(matrix: Matrix, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = matrix
    return a * x + c * y + e, b * x + d * y + f


def pdf_number(value: float) -> str:
    """Format a number for PDF, which has no exponents."""
    return f"{value:.5f}".rstrip("0").rstrip(".")
