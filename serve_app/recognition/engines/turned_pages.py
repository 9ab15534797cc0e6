"""Reads a turned page once more, upright: Tesseract finds its direction, but loses narrow columns of it.

On blurred print, whose letters run into each other, it finds a wrong direction. Then only nonsense is read in that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve_app.document import Block
from serve_app.recognition.engines.grey import GreyPixels
from serve_app.recognition.engines.placing import turned_back
from serve_app.recognition.engines.tesseract_blocks import certainty, mean_confidence, words_of

NONSENSE = 0.6
"""Mean confidence of words below which a direction is doubted. Pages read sideways have 0.32 to 0.45; read rightly, pages
blurred as much have 0.88 to 0.96."""

AS_SURE = 0.99
"""Share of the first reading's certainty from which the upright one is taken: only that has the places of characters, by which
joined numbers are parted. The two differ by at most 0.1% where both read all words."""


def read_upright(
    grey: GreyPixels, blocks: list[Block], rotation: int, read: Callable[[GreyPixels], list[Block]]
) -> tuple[list[Block], int]:
    """Return blocks and rotation of a page whose text seems turned clockwise by `rotation`, from the best of its readings.

    `blocks` is the first reading. `read` reads an upright page without detecting its direction.
    """
    if not rotation:
        return blocks, rotation
    quarters = rotation // 90
    height, width = grey.shape
    again = read(np.ascontiguousarray(np.rot90(grey, quarters)))
    if certainty(again) >= AS_SURE * certainty(blocks):
        blocks = turned_back(again, quarters, width, height)
    if mean_confidence(words_of(blocks)) < NONSENSE:
        as_it_is = read(grey)
        if certainty(as_it_is) > certainty(blocks):
            return as_it_is, 0
    return blocks, rotation
