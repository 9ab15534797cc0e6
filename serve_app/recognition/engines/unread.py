"""Finds out whether text of a page was not read: patterns like letters where no word is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serve_app.document import Box, RgbPixels
from serve_app.recognition.engines.grey import even, even_plain

INK = 128
"""Grey level of an even page below which a pixel is ink."""

OTHER_GROUND = 223
"""Grey level below which most of a tile has another ground than the page: from 32 levels on, letters may be lost in it."""

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
    small = np.ascontiguousarray(pixels[::step, ::step])  # it is read several times
    rows, columns = small.shape[0] // TILE, small.shape[1] // TILE
    if not rows or not columns:
        return False
    outside = np.ones((rows, columns), bool)
    side = TILE * step
    for left, top, right, bottom in read:
        outside[top // side : bottom // side + 1, left // side : right // side + 1] = False
    grey = even_plain(small)  # right for nearly every page, and in a tenth of the time
    if (outside & (_in_tiles(grey < OTHER_GROUND) > TILE * TILE // 2)).sum() >= LEAST_TILES:
        grey = even(small, max(1, letter // step))
    if 255 - np.median(grey[::2, ::2]) > MOST_NOISE:
        return False
    ink = grey[: rows * TILE, : columns * TILE] < INK
    ink &= ~(_long_runs(ink) | _long_runs(ink.T).T)
    letters = (_in_tiles(_changes(ink, 1)) >= TILE // 2) & (_in_tiles(_changes(ink, 0)) >= TILE // 2)
    return bool((outside & letters).sum() >= max(LEAST_TILES, LEAST_SHARE * letters.sum()))


def _in_tiles(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return how many flags are set in each tile."""
    rows, columns = flags.shape[0] // TILE, flags.shape[1] // TILE
    flags = flags[: rows * TILE, : columns * TILE]
    # Bits of a byte are counted at once. TILE is 8.
    across = np.bitwise_count(np.packbits(flags, axis=1))
    counts: npt.NDArray[np.intp] = across.reshape(rows, TILE, columns).sum(axis=1, dtype=np.intp)
    return counts


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
