"""Straightens crooked pages, and maps what was read on them back to the page as it was sent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from serve_app.document import Block, Box, Polygon, RgbPixels
from serve_app.recognition.engines.placing import bounds_of, corners_of

MAX_GROWTH = 2.0
"""Largest ratio of a straightened page's area to the page's. Only strips over five times as long as wide exceed it."""

CELL = 32
"""Side of the squares of pixels whose average goes on beyond an edge of the page."""

LID = 9
"""The lightest of this many squares side by side is taken for the paper at an edge: lids of scanners are narrower than half
of them, and a lid that goes on makes Tesseract see pictures."""

Affine = tuple[float, float, float, float, float, float]
"""a b c d e f as Pillow has them: x' = ax + by + c, y' = dx + ey + f."""


@dataclass(frozen=True)
class StraightPage:
    """A page with level lines of text, as large as needed to hold the whole of the page as it was sent.

    `pixels`: RGB, uint8, shape (height, width, 3). `skew`: degrees clockwise by which the page was crooked. A page with a
    skew of 0.0 has the pixels that were sent. `sent`: width and height of the page as it was sent.
    """

    pixels: RgbPixels
    skew: float
    sent: tuple[int, int]
    _to_sent: Affine

    def polygon(self, box: Box, rotation: int) -> Polygon:
        """Return the corners of a box on the page as it was sent; see `corners_of`."""
        return [self._sent_point(x, y) for x, y in corners_of(box, rotation)]

    def box(self, box: Box) -> Box:
        """Return the smallest upright box on the page as it was sent that holds `box`, cut at the page's edges."""
        return self.bounds(corners_of(box, 0))

    def bounds(self, outline: Polygon) -> Box:
        """Return the smallest upright box on the page as it was sent that holds `outline`, cut at the page's edges."""
        return bounds_of([self._sent_point(x, y) for x, y in outline], self.sent)

    def as_sent(self, blocks: list[Block], rotation: int) -> list[Block]:
        """Return blocks and words with boxes and polygons on the page as it was sent. Straight pages have no polygons."""
        if not self.skew:
            return blocks
        return [
            block.model_copy(
                update={
                    "bbox": self.box(block.bbox),
                    "polygon": self.polygon(block.bbox, rotation),
                    "words": [
                        word.model_copy(
                            update={"bbox": self.box(word.bbox), "polygon": self.polygon(word.bbox, rotation)}
                        )
                        for word in block.words
                    ],
                }
            )
            for block in blocks
        ]

    def _sent_point(self, x: float, y: float) -> tuple[float, float]:
        a, b, c, d, e, f = self._to_sent
        return round(a * x + b * y + c, 2), round(d * x + e * y + f, 2)


def straighten(pixels: RgbPixels, skew: float, *, max_side: int) -> StraightPage:
    """Turn a page counter-clockwise by `skew` degrees around its centre. In the corners that this adds, its edges go on.

    Returns the page as it is if `skew` is 0.0, or if its sides would exceed `max_side` or its area MAX_GROWTH.
    """
    height, width = pixels.shape[:2]
    cosine, sine = math.cos(math.radians(skew)), abs(math.sin(math.radians(skew)))
    size = math.ceil(width * cosine + height * sine), math.ceil(height * cosine + width * sine)
    if not skew or max(size) > max_side or size[0] * size[1] > MAX_GROWTH * width * height:
        return StraightPage(pixels, 0.0, (width, height), (1, 0, 0, 0, 1, 0))
    to_sent = _turn(skew, size, (width, height))
    ground, left, top = _with_ground(pixels, size, skew)
    a, b, c, d, e, f = to_sent
    turned = ground.transform(size, Image.Transform.AFFINE, (a, b, c + left, d, e, f + top), Image.Resampling.BICUBIC)
    return StraightPage(np.asarray(turned), skew, (width, height), to_sent)


def _with_ground(pixels: RgbPixels, size: tuple[int, int], skew: float) -> tuple[Image.Image, int, int]:
    """Return the page on ground that goes on from its edges, for a straightened page of this size; and its left and top there.

    Ground of one colour would be a third tone on a page that is unevenly lit, beside ink and paper, and shift the threshold
    between these. Ground is made of averages, so that lines of text that are cut off at an edge do not run on.
    """
    height, width = pixels.shape[:2]
    cosine, sine = math.cos(math.radians(skew)), abs(math.sin(math.radians(skew)))
    columns = math.ceil((size[0] * cosine + size[1] * sine - width) / 2 / CELL)
    rows = math.ceil((size[1] * cosine + size[0] * sine - height) / 2 / CELL)
    page = Image.fromarray(pixels)
    paper = page.reduce(CELL).filter(ImageFilter.MaxFilter(LID))
    cells = np.pad(np.asarray(paper), ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    ground = Image.fromarray(cells).resize((cells.shape[1] * CELL, cells.shape[0] * CELL), Image.Resampling.BILINEAR)
    ground.paste(page, (columns * CELL, rows * CELL))
    return ground, columns * CELL, rows * CELL


def _turn(skew: float, size: tuple[int, int], sent: tuple[int, int]) -> Affine:
    """Return the way from a straightened page of this size to the page as it was sent."""
    cosine, sine = math.cos(math.radians(skew)), math.sin(math.radians(skew))
    across, down = size[0] / 2, size[1] / 2
    return (
        cosine,
        -sine,
        sent[0] / 2 - cosine * across + sine * down,
        sine,
        cosine,
        sent[1] / 2 - sine * across - cosine * down,
    )
