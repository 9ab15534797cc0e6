"""Finds out whether text of a page was not read: patterns like letters where no word is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serve_app.document import Box, RgbPixels
from serve_app.recognition.engines.grey import even

INK = 128
"""Grey level of an even page below which a pixel is ink."""

LETTER = 7
"""Height of a letter on the reduced page, in pixels, and of the tiles into which this is divided, plus one."""

TILE = 8
LONGEST = 4 * TILE
"""Ink that runs straight for longer than this, in pixels of the reduced page, is a rule and no letter."""

MOST_NOISE = 24
"""Median contrast of the ground, of 255, above which a page is too noisy to tell letters from noise."""

LEAST_TILES, LEAST_SHARE = 8, 0.02
"""Tiles like letters outside of all words, and their share of all tiles like letters, from which text counts as unread.
Lines that were lost in shade or under a marker were 0.33 to 0.9 of the tiles, and pages without rules whose words were all
read had at most 0.008."""


def has_unread_text(pixels: RgbPixels, read: Iterable[Box], letter: int) -> bool:
    """Return whether a page has patterns like letters, in any colours, outside of the boxes `read`.

    `pixels`: RGB, uint8, shape (height, width, 3). `letter`: height of a usual letter in pixels.
    """
    step = max(1, round(letter / LETTER))
    grey = even(pixels[::step, ::step], max(1, letter // step))
    rows, columns = grey.shape[0] // TILE, grey.shape[1] // TILE
    if not rows or not columns or 255 - np.median(grey[::2, ::2]) > MOST_NOISE:
        return False
    ink = grey[: rows * TILE, : columns * TILE] < INK
    ink &= ~(_long_runs(ink) | _long_runs(ink.T).T)
    across = _changes(ink, 1).reshape(rows, TILE, columns, TILE).sum(axis=(1, 3))
    down = _changes(ink, 0).reshape(rows, TILE, columns, TILE).sum(axis=(1, 3))
    letters = (across >= TILE // 2) & (down >= TILE // 2)
    unread = letters.copy()
    side = TILE * step
    for left, top, right, bottom in read:
        unread[top // side : bottom // side + 1, left // side : right // side + 1] = False
    return bool(unread.sum() >= max(LEAST_TILES, LEAST_SHARE * letters.sum()))


def _changes(ink: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    return np.diff(ink, axis=axis, append=np.take(ink, [-1], axis=axis))


def _long_runs(ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where ink runs across for at least LONGEST pixels."""
    runs = np.pad(ink, ((0, 0), (LONGEST, LONGEST)))
    for combine in (np.logical_and, np.logical_or):
        size = 1
        while size < LONGEST:  # each step doubles the length
            runs = combine(runs[:, :-size], runs[:, size:])
            size *= 2
    return runs[:, 1 : 1 + ink.shape[1]]
