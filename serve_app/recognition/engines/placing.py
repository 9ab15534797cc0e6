"""Places what was read on a piece of a page, or on a turned or straightened copy, on the page itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from serve_app.document import Block, Box, Polygon


def corners_of(box: Box, rotation: int) -> Polygon:
    """Return the corners of a box: from the start of its top edge, along the text.

    `rotation` is that of the text (see Page): the top edge of text that is turned by 90 degrees is the box's right one.
    """
    left, top, right, bottom = box
    corners: Polygon = [(left, top), (right, top), (right, bottom), (left, bottom)]
    first = rotation // 90
    return corners[first:] + corners[:first]


def bounds_of(outline: Polygon, size: tuple[int, int]) -> Box:
    """Return the smallest upright box that holds `outline`, cut at the edges of a page of this width and height."""
    across, down = zip(*outline, strict=True)
    width, height = size
    return (
        min(max(math.floor(min(across)), 0), width),
        min(max(math.floor(min(down)), 0), height),
        min(max(math.ceil(max(across)), 0), width),
        min(max(math.ceil(max(down)), 0), height),
    )


def placed(blocks: list[Block], place: Callable[[Box], Box]) -> list[Block]:
    """Return blocks and words with the boxes that `place` makes of theirs."""
    return [
        block.model_copy(
            update={
                "bbox": place(block.bbox),
                "words": [word.model_copy(update={"bbox": place(word.bbox)}) for word in block.words],
            }
        )
        for block in blocks
    ]


def shifted(blocks: list[Block], right: int, down: int, width: int, height: int) -> list[Block]:
    """Return blocks of a piece that lies so far to the right and down on a page of this size. Boxes are cut at its edges."""

    def place(box: Box) -> Box:
        across = [min(max(x + right, 0), width) for x in box[::2]]
        downwards = [min(max(y + down, 0), height) for y in box[1::2]]
        return across[0], downwards[0], across[1], downwards[1]

    return placed(blocks, place) if right or down else blocks


def turned_back(blocks: list[Block], quarters: int, width: int, height: int) -> list[Block]:
    """Return blocks on a page of this size that were read on its copy turned counter-clockwise by `quarters`."""

    def place(box: Box) -> Box:
        for turn in range(quarters, 0, -1):
            left, top, right, bottom = box
            across = width if turn % 2 else height  # of the page that the next quarter turn back gives
            box = (across - bottom, left, across - top, right)
        return box

    return placed(blocks, place)
