"""Finds pictures with text on a page whose other text is known: a scanned clause in a contract, a screenshot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from serve_app.document import Box

MIN_SHARE = 0.01
"""Least share of the page that pictures cover together to be worth reading. Signs and lines cover less."""

MAX_PICTURES = 100
"""A page with more pictures is a map or a catalogue of icons."""

PAPER_SHARE = 0.5
"""Least share of the most common grey in a picture of text. A photograph has no grey that is so common."""

INK_CONTRAST, MIN_INK, MAX_INK = 64, 0.005, 0.4
"""Difference of ink from paper in grey levels (of 255), and the shares of a picture that ink of text covers."""

_GREYS = 16  # levels that count as one grey


def pictures_of_text(
    preview: npt.NDArray[np.uint8], pictures: Sequence[Box], known: Iterable[Box], width: int, height: int
) -> list[Box]:
    """Return the pictures that may have text beside the words at `known`, which may lie over a picture.

    `preview` is a grey drawing, of shape (height, width) or (height, width, 1), of the page in whose pixels, `width` x
    `height`, the boxes are.
    """
    if not pictures or len(pictures) > MAX_PICTURES:
        return []
    grey = preview[..., 0] if preview.ndim == 3 else preview
    down, across = grey.shape[0] / height, grey.shape[1] / width
    is_known = np.zeros(grey.shape, bool)
    for box in known:
        is_known[_scaled(box, across, down)] = True
    found = [
        box
        for box in pictures
        if _looks_like_text(grey[_scaled(box, across, down)][~is_known[_scaled(box, across, down)]])
    ]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in found)
    return found if covered >= MIN_SHARE * width * height else []


def _scaled(box: Box, across: float, down: float) -> tuple[slice, slice]:
    left, top, right, bottom = box
    return (
        slice(max(int(top * down), 0), max(math.ceil(bottom * down), 0)),
        slice(max(int(left * across), 0), max(math.ceil(right * across), 0)),
    )


def _looks_like_text(greys: npt.NDArray[np.uint8]) -> bool:
    if not greys.size:
        return False
    counts = np.bincount(greys // _GREYS, minlength=256 // _GREYS)
    paper = int(counts.argmax())
    # Paper may lie across the border of two greys.
    share = counts[max(paper - 1, 0) : paper + 2].sum() / greys.size
    ink = np.abs(greys.astype(int) - (paper * _GREYS + _GREYS // 2)) >= INK_CONTRAST
    return bool(share >= PAPER_SHARE and MIN_INK <= ink.mean() <= MAX_INK)
