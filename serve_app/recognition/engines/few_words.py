"""Reads what layout analysis fails on: a page with a single character or line, and a turned page with few words."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from serve_app.document import Block, Box, Word
from serve_app.recognition.engines.grey import GreyPixels
from serve_app.recognition.engines.placing import shifted, turned_back
from serve_app.recognition.engines.tesseract_blocks import certainty, mean_confidence, words_of

Read = Callable[[GreyPixels], list[Block]]

FEW = 12
"""Words up to which a page's direction is not believed at once: Tesseract's detection needs about 50 letters."""

LEAST_LETTERS = 4
"""Letters and digits from which a direction can be told: "II" and "=" are the same, turned."""

DOUBTFUL, SURE = 0.8, 0.8
"""Mean confidence of words below which other directions are tried, and from which one of them is believed. With these, five
labels of one to six words, Russian and English, were read in each of four directions."""

MIN_CONTRAST = 64
"""Grey levels by which a lone character differs from the ground."""

MOST_INK = 0.3
"""Largest share of ink in the box around a lone character or line. Noise and pictures have more."""

LEAST_SIDE, MOST_HEIGHT = 8, 400
"""Height of a lone character or line in pixels, at least and at most."""

LONE_CONFIDENCE = 0.5
"""Confidence from which a lone character is believed. Specks have less."""


def in_other_directions(grey: GreyPixels, blocks: list[Block], rotation: int, read: Read) -> tuple[list[Block], int]:
    """Return blocks and rotation of a page in its surest direction, if it has few words and these are doubtful.

    `read` reads a page without detecting its direction.
    """
    words = words_of(blocks)
    if not words or len(words) > FEW:
        return blocks, rotation
    best = blocks, rotation
    if mean_confidence(words) < DOUBTFUL and _letters(words) >= LEAST_LETTERS:
        height, width = grey.shape
        for quarters in (2, 1, 3):
            again = read(np.rot90(grey, quarters))
            surer = mean_confidence(words_of(again)) >= SURE and certainty(again) > certainty(best[0])
            if surer and _letters(words_of(again)) >= LEAST_LETTERS:
                best = turned_back(again, quarters, width, height), quarters * 90
    blocks, rotation = best
    # A single line that runs down the page is read, but its direction is given as that of a line across.
    if rotation in (0, 180) and _run_down(words_of(blocks)):
        rotation += 90
    return blocks, rotation


def _letters(words: list[Word]) -> int:
    return sum(letter.isalnum() for word in words for letter in word.text)


def _run_down(words: list[Word]) -> bool:
    boxes = [word.bbox for word in words if len(word.text) >= 3]
    return sum(box[3] - box[1] for box in boxes) > 1.5 * sum(box[2] - box[0] for box in boxes)


def lone_text(grey: GreyPixels, readers: Iterable[Read]) -> list[Block]:
    """Read a page on which nothing was found but which has a little ink, by the surest of several readers."""
    box = _ink_box(grey)
    if box is None:
        return []
    left, top, right, bottom = box
    margin = max(10, (bottom - top) // 2)
    crop = np.pad(grey[top:bottom, left:right], margin, constant_values=int(np.median(grey)))
    if np.median(grey) < 128:
        crop = 255 - crop
    surest: list[Block] = []
    for read in readers:
        blocks = read(crop)
        words = words_of(blocks)
        if mean_confidence(words) >= LONE_CONFIDENCE and _letters(words) and certainty(blocks) > certainty(surest):
            surest = blocks
    height, width = grey.shape
    return shifted(surest, left - margin, top - margin, width, height)


def _ink_box(grey: GreyPixels) -> Box | None:
    """Return the box around all ink, or None if that is not a character or a line."""
    ground = int(np.median(grey[::4, ::4])) if grey.size else 0
    ink = np.abs(grey.astype(np.int16) - ground) > MIN_CONTRAST
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not rows.size:
        return None
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if not LEAST_SIDE <= bottom - top <= MOST_HEIGHT or min(grey.shape) < 2 * LEAST_SIDE:
        return None
    return (left, top, right, bottom) if ink.mean() <= MOST_INK else None
