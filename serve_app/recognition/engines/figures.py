"""Figures: pictures on a page that are cut out of it, as files that its Markdown links."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve_app.document import Block, Box, Figure, RgbPixels, Word

IMAGE = "image"
"""The label of a block that is a picture."""

JPEG_QUALITY = 90  # 0..100

LEAST_SIDE = 1 / 25
"""Of a figure, in parts of the page's shorter side: 8 mm on A4. Less is a speck or the edge of a scan."""

MAX_SHARE = 0.8
"""Of the page, what a figure may take. What takes more is the paper, or the desk on which it lies."""

MAX_EDGES = 2
"""Of the page's edges, those that a figure may touch. A shadow, a scanner's lid and a book's gutter touch more."""

STRIP = 0.1
"""Of the page's width or height: what is no thicker and lies along an edge is a lid or a gutter too."""

MAX_TEXT_SHARE = 0.1
"""Of a figure, what words take that were read well. More is a paragraph in a shadow or under a stamp."""

READ_WELL = 0.6  # confidence of a word; letters that are seen in a photograph have less

LEAST_CONTENT = 0.05
"""Of a figure, what is not of its one ground colour."""

TONES = 24
"""Levels of 255 by which a colour differs from another that is the same but for noise and shade."""

CELL = 1 / 400
"""Of the page's shorter side: pixels are looked at in squares of that size, in which noise and halftones even out."""

MAX_GROWTH = 0.15
"""Of a figure's width or height, by which an edge may move out to where the picture ends."""

PAPER_LINES = 8
"""Lines of cells by which the paper beside a picture is known."""

PICTURE, PAPER = 0.5, 0.03
"""Of a line of cells, what differs from the paper where it is a picture's, and where it is beside one."""


def jpeg(picture: Image.Image) -> bytes:
    """The file of a figure."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def cut_figures(pixels: RgbPixels, blocks: Sequence[Block], rotation: int) -> tuple[list[Block], tuple[Figure, ...]]:
    """The blocks of a page with those of the label IMAGE made figures, and their files.

    `blocks` are in reading order; `rotation` is that of the page's text (see Page), and figures are turned
    upright as it is. What an engine took for a picture and is none is left out; the others are numbered anew.
    """
    words = [word for block in blocks for word in block.words]
    page = _Page(pixels)
    kept, figures = list[Block](), dict[str, Figure]()
    for block in blocks:
        if block.label != IMAGE:
            kept.append(block.model_copy(update={"order": len(kept)}))
            continue
        if not page.may_be_figure(block.bbox, words):
            continue
        box = left, top, right, bottom = page.fitted(block.bbox)
        path = f"imgs/img_in_image_box_{left}_{top}_{right}_{bottom}.jpg"
        if path in figures or not page.has_content(box):
            continue
        upright = np.rot90(pixels[top:bottom, left:right], rotation // 90)
        figures[path] = Figure(path, jpeg(Image.fromarray(np.ascontiguousarray(upright))))
        kept.append(block.model_copy(update={"bbox": box, "figure": path, "order": len(kept)}))
    return kept, tuple(figures.values())


class _Page:
    """A page in grey cells: what of it is picture and what is paper."""

    def __init__(self, pixels: RgbPixels) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels
        self._cell = max(1, round(min(self.width, self.height) * CELL))

    @cached_property
    def _grey(self) -> npt.NDArray[np.int16]:
        return np.asarray(Image.fromarray(self._pixels).convert("L").reduce(self._cell), dtype=np.int16)

    def may_be_figure(self, box: Box, words: Sequence[Word]) -> bool:
        """Whether its size and place are a figure's, and it is not a region of text."""
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        at_sides = (left <= 0) + (right >= self.width)
        at_ends = (top <= 0) + (bottom >= self.height)
        if (
            min(width, height) < LEAST_SIDE * min(self.width, self.height)
            or width * height > MAX_SHARE * self.width * self.height
            or at_sides + at_ends > MAX_EDGES
            or (at_sides and width <= STRIP * self.width)
            or (at_ends and height <= STRIP * self.height)
        ):
            return False
        read = sum(_area(_common(word.bbox, box)) for word in words if (word.confidence or 0) >= READ_WELL)
        return read <= MAX_TEXT_SHARE * width * height

    def has_content(self, box: Box) -> bool:
        """Whether there is more to be seen than one tone."""
        inside = self._grey[self._cells(box)]
        ground = np.bincount(inside.ravel() // TONES).argmax() * TONES + TONES // 2
        return bool((np.abs(inside - ground) > TONES).mean() >= LEAST_CONTENT)

    def fitted(self, box: Box) -> Box:
        """The box with its edges where the picture meets the paper, as far as those are told apart."""
        rows, columns = self._cells(box)
        top = _edge(self._grey[: rows.stop, columns][::-1], rows.stop - rows.start)
        bottom = _edge(self._grey[rows.start :, columns], rows.stop - rows.start)
        left = _edge(self._grey[rows, : columns.stop][:, ::-1].T, columns.stop - columns.start)
        right = _edge(self._grey[rows, columns.start :].T, columns.stop - columns.start)
        return (
            (columns.stop - left) * self._cell,
            (rows.stop - top) * self._cell,
            min((columns.start + right) * self._cell, self.width),
            min((rows.start + bottom) * self._cell, self.height),
        )

    def _cells(self, box: Box) -> tuple[slice, slice]:
        left, top, right, bottom = box
        return slice(top // self._cell, -(-bottom // self._cell)), slice(left // self._cell, -(-right // self._cell))


def _edge(lines: npt.NDArray[np.int16], size: int) -> int:
    """Behind how many of the `lines` the picture ends that was thought to be `size` of them, of cells each.

    Out over lines that are mostly picture, or in over those that are not. What is told from the paper is told
    from the paper on this side, since light falls on a page unevenly.
    """
    furthest = size + max(1, round(MAX_GROWTH * size))
    beyond = lines[furthest : furthest + PAPER_LINES]
    if not beyond.size:
        return size
    shares = (np.abs(lines - np.median(beyond)) > TONES / 2).mean(axis=1)
    end = size
    while end < furthest and shares[end] > PICTURE:
        end += 1
    while end > size // 2 and shares[end - 1] < PAPER:
        end -= 1
    return end


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])
