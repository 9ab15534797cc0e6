"""Cuts pages that are longer than the engine takes into pieces, where no line of text is cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from serve_app.document import RgbPixels

PIECE = 16_000
"""Usual length of a piece in pixels: half of what Tesseract takes, so that a cut has room to move."""

SEARCHED = 1_000
"""Pixels before the end of a piece in which the emptiest place is looked for. Higher than a heading."""


def pieces(pixels: RgbPixels, longest: int) -> Iterator[tuple[int, int, RgbPixels]]:
    """Yield the left, the top and the pixels of each piece of a page: the page itself if no side exceeds `longest`."""
    for top, bottom in _cuts(pixels, longest):
        rows = pixels[top:bottom]
        for left, right in _cuts(rows.swapaxes(0, 1), longest):
            yield left, top, rows[:, left:right]


def _cuts(pixels: RgbPixels, longest: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each piece along the first axis."""
    length, start = len(pixels), 0
    if length > longest:
        while length - start > PIECE:
            end = start + PIECE
            grey = pixels[end - SEARCHED : end, :, 1].astype(np.int16)
            spread = np.abs(np.diff(grey, axis=1)).sum(axis=1) if grey.shape[1] > 1 else np.zeros(len(grey))
            # The middle of the emptiest stretch: lines lie as far as possible from the cut.
            end = end - SEARCHED + _middle_of_longest_run(spread <= spread.min()) + 1
            yield start, end
            start = end
    yield start, length


def _middle_of_longest_run(flags: npt.NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).argmax())
    return int(starts[longest] + ends[longest] - 1) // 2
