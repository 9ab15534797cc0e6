"""Reads a turned page once more, upright: Tesseract finds its direction, but loses narrow columns of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve_app.document import Block
from serve_app.recognition.engines.grey import GreyPixels
from serve_app.recognition.engines.placing import turned_back
from serve_app.recognition.engines.tesseract_blocks import certainty


def read_upright(
    grey: GreyPixels, blocks: list[Block], rotation: int, read: Callable[[GreyPixels], list[Block]]
) -> list[Block]:
    """Return the blocks of a page whose text is turned clockwise by `rotation`, from the better of two readings.

    `blocks` is the first reading. `read` reads an upright page without detecting its direction.
    """
    if not rotation:
        return blocks
    quarters = rotation // 90
    height, width = grey.shape
    again = read(np.ascontiguousarray(np.rot90(grey, quarters)))
    return turned_back(again, quarters, width, height) if certainty(again) > certainty(blocks) else blocks
