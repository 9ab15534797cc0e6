"""Puts a page's first reading and one of its evened copy together: neither alone has all text and all pictures."""

from __future__ import annotations

from serve_app.document import Block, Box
from serve_app.recognition.engines.figures import IMAGE
from serve_app.recognition.engines.tesseract_blocks import certainty

SURE = 0.7
"""Mean confidence from which a block of the first reading is kept if the second has nothing in its place."""

GAIN = 1.01
"""Least certainty of the second reading as a multiple of the first's. With less, it found no text that the first lacks, and
letters are read best from the page as it is: a table that is blurred by two pixels loses four of its 83 words."""


def merged(first: list[Block], second: list[Block]) -> list[Block]:
    """Return the surer of two readings of one page, in reading order, with all pictures of the first.

    The second cannot tell pictures from paper. If it is surer by GAIN, what only the first has read is kept as well: letters larger
    than the ground that evening compares with.
    """
    if certainty(second) <= GAIN * certainty(first):
        return first
    blocks = [block for block in second if block.label != IMAGE]
    for block in first:
        if block.label == IMAGE or ((block.confidence or 0) >= SURE and not _overlaps(block, blocks)):
            place = next(
                (index for index, other in enumerate(blocks) if _is_below(other.bbox, block.bbox)), len(blocks)
            )
            blocks.insert(place, block)
    return [block.model_copy(update={"order": order}) for order, block in enumerate(blocks)]


def _overlaps(block: Block, blocks: list[Block]) -> bool:
    return any(_meet(word.bbox, other.bbox) for other in blocks for word in block.words)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _is_below(box: Box, other: Box) -> bool:
    """Whether a box begins below the middle of another, in the same column."""
    return box[1] >= (other[1] + other[3]) / 2 and box[0] < other[2] and other[0] < box[2]
