"""Cuts pictures out of a page as figures: files that its Markdown links to."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve_app.document import Block, Box, Figure, RgbPixels, Word
from serve_app.recognition.engines.straightening import StraightPage

IMAGE = "image"
"""The label of picture blocks."""

JPEG_QUALITY = 90  # 0..100

MIN_SIDE = 1 / 25
"""Shortest side of a figure as a share of the page's shorter side: 8 mm on A4. Anything smaller is a speck or the edge
of a scan."""

MAX_SHARE = 0.8
"""Largest share of the page's area that a figure may cover. A larger one is the paper, or the desk under it."""

MAX_EDGES = 2
"""Most edges of the page that a figure may touch. Shadows, scanner lids and book gutters touch more."""

LID_SHARE = 0.1
"""A picture along an edge of the page that is no thicker than this share of the page is a scanner lid or a gutter."""

MAX_TEXT_SHARE = 0.1
"""Largest share of a figure's area covered by words of MIN_WORD_CONFIDENCE. With more, it is a paragraph in a shadow or
under a stamp."""

MIN_WORD_CONFIDENCE = 0.6  # 0..1; letters that an engine imagines in a photograph have less

MIN_CONTENT_SHARE = 0.05
"""Smallest share of a figure's area that differs from its background colour."""

TONES = 24
"""Grey levels (of 255) by which two samples of one colour may differ because of noise and shade."""

CELL = 1 / 400
"""Side of a cell as a share of the page's shorter side. Pixels are averaged over cells to even out noise and halftones."""

MAX_GROWTH = 0.15
"""Largest share of a figure's width or height by which an edge may move outwards."""

PAPER_LINES = 8
"""Lines of cells beside a picture from which the colour of the paper is taken."""

PICTURE_SHARE, PAPER_SHARE = 0.5, 0.03
"""Shares of a line's cells that differ from the paper's colour. A line above the first belongs to the picture, a line
below the second to the paper."""


def jpeg(picture: Image.Image) -> bytes:
    """Encode a picture as the JPEG file of a figure."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def cut_figures(pixels: RgbPixels, blocks: Sequence[Block], rotation: int) -> tuple[list[Block], tuple[Figure, ...]]:
    """Turn the IMAGE blocks of a page into figures. Returns the page's blocks and the figures' files.

    `blocks` are in reading order. `rotation` is that of the page's text (see Page); figures are turned upright with it.
    Blocks that an engine mistook for pictures are dropped, and the remaining blocks are renumbered.
    """
    words = [word for block in blocks for word in block.words]
    page = _Page(pixels)
    remaining, figures = list[Block](), dict[str, Figure]()
    for block in blocks:
        if block.label != IMAGE:
            remaining.append(block.model_copy(update={"order": len(remaining)}))
            continue
        outline = _intersection(block.bbox, (0, 0, page.width, page.height))
        if not _area(outline) or not page.may_be_figure(outline, words):
            continue
        box = left, top, right, bottom = page.fit(outline)
        path = _path(box)
        # A picture that is nothing but paper has no area once its edges have moved in.
        if path in figures or left >= right or top >= bottom or not page.has_content(box):
            continue
        upright = np.rot90(pixels[top:bottom, left:right], rotation // 90)
        figures[path] = Figure(path, jpeg(Image.fromarray(np.ascontiguousarray(upright))))
        changes = {"bbox": box, "polygon": None, "figure": path, "order": len(remaining)}
        remaining.append(block.model_copy(update=changes))
    return remaining, tuple(figures.values())


def named_by_place(blocks: list[Block], figures: Sequence[Figure]) -> tuple[list[Block], tuple[Figure, ...]]:
    """Return blocks that have been placed on the page as it was sent, and their figures, with names that say where these are.

    Of figures that are in the same place there, the first gets the name.
    """
    names, taken = dict[str, str](), {figure.path for figure in figures}
    for block in blocks:
        if block.figure is not None and (path := _path(block.bbox)) not in taken:
            names[block.figure] = path
            taken.add(path)
    return (
        [block.model_copy(update={"figure": names.get(block.figure or "", block.figure)}) for block in blocks],
        tuple(replace(figure, path=names.get(figure.path, figure.path)) for figure in figures),
    )


def _path(box: Box) -> str:
    left, top, right, bottom = box
    return f"imgs/img_in_image_box_{left}_{top}_{right}_{bottom}.jpg"


def drop_edges(blocks: list[Block], page: StraightPage) -> list[Block]:
    """Drop the IMAGE blocks at the edges of a crooked page, going by the outlines that are their polygons.

    Lids and gutters run along the edges of the page as it was sent. On the straightened page they are sloping wedges, as
    wide as figures.
    """
    if not page.skew:
        return blocks
    width, height = page.sent
    return [
        block
        for block in blocks
        if block.label != IMAGE or not block.polygon or may_stand(page.bounds(block.polygon), width, height)
    ]


def may_stand(box: Box, page_width: int, page_height: int) -> bool:
    """Whether a box has the size and position of a figure on a page of this size."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    at_sides = (left <= 0) + (right >= page_width)
    at_ends = (top <= 0) + (bottom >= page_height)
    return not (
        min(width, height) < MIN_SIDE * min(page_width, page_height)
        or width * height > MAX_SHARE * page_width * page_height
        or at_sides + at_ends > MAX_EDGES
        or (at_sides and width <= LID_SHARE * page_width)
        or (at_ends and height <= LID_SHARE * page_height)
    )


class _Page:
    """A page in grey cells, in which pictures and paper are compared."""

    def __init__(self, pixels: RgbPixels) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels
        self._cell = max(1, round(min(self.width, self.height) * CELL))

    @cached_property
    def _grey(self) -> npt.NDArray[np.int16]:
        return np.asarray(Image.fromarray(self._pixels).convert("L").reduce(self._cell), dtype=np.int16)

    def may_be_figure(self, box: Box, words: Sequence[Word]) -> bool:
        """Whether a box has the size and position of a figure and is not a region of text."""
        if not may_stand(box, self.width, self.height):
            return False
        covered = sum(
            _area(_intersection(word.bbox, box)) for word in words if (word.confidence or 0) >= MIN_WORD_CONFIDENCE
        )
        return covered <= MAX_TEXT_SHARE * _area(box)

    def has_content(self, box: Box) -> bool:
        """Whether the box has more content than its background colour."""
        inside = self._grey[self._cells(box)]
        ground = np.bincount(inside.ravel() // TONES).argmax() * TONES + TONES // 2
        return bool((np.abs(inside - ground) > TONES).mean() >= MIN_CONTENT_SHARE)

    def fit(self, box: Box) -> Box:
        """Move the box's edges to where the picture meets the paper, if their colours differ."""
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
    """Find the edge of a picture. Returns the number of `lines` that belong to it; `size` of them were detected as such.

    Each line is a row of cells; they are in order from inside the picture outwards. The edge moves out over lines that
    are mostly picture, or in over lines that are mostly paper. The paper's colour is that of the lines beyond this edge,
    since pages are unevenly lit.
    """
    furthest = size + max(1, round(MAX_GROWTH * size))
    beyond = lines[furthest : furthest + PAPER_LINES]
    if not beyond.size:
        return size
    shares = (np.abs(lines - np.median(beyond)) > TONES / 2).mean(axis=1)
    end = size
    while end < furthest and shares[end] > PICTURE_SHARE:
        end += 1
    while end > size // 2 and shares[end - 1] < PAPER_SHARE:
        end -= 1
    return end


def _intersection(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])
