"""Parts numbers whose groups of digits Tesseract has joined, such as "1275,00" for "1 275,00".

For digits it has no dictionary, so a shift by half a pixel decides whether it sees the space. The picture does show it:
digits of a font stand at one distance, and a space adds about half of that.
"""

from __future__ import annotations

import re
from itertools import pairwise
from statistics import median

from serve_app.document import Box

JOINED = re.compile(r"\d{4}")
"""Digits that a word must hold to be looked at. With fewer, the usual distance is not known."""

WIDER = 1.3
"""Least distance of two digits' centres across a space, as a multiple of the usual one. In numbers of 47 fonts at 28 pixels, this and
WHITE find 93% of the spaces, and one in 3,500 where there is none."""

WHITE = 0.3
"""Least white between two digits with a space between them, as a share of their height."""

Symbol = tuple[str, Box]
"""A character and its box in pixels."""


def parted(symbols: list[Symbol]) -> list[list[Symbol]]:
    """Return the symbols of a word in groups: one, or more if spaces between its digits show in the picture.

    `symbols` are in reading order, and upright, or turned by 90, 180 or 270 degrees.
    """
    pairs = {
        at: _between(one, other)
        for at, ((first, one), (second, other)) in enumerate(pairwise(symbols), 1)
        if first.isdecimal() and second.isdecimal()
    }
    if len(pairs) < 3:
        return [symbols]
    usual = median(distance for distance, _ in pairs.values())
    cuts = [at for at, (distance, white) in pairs.items() if distance >= WIDER * usual and white >= WHITE]
    return [symbols[start:end] for start, end in zip([0, *cuts], [*cuts, len(symbols)], strict=True)]


def _between(one: Box, other: Box) -> tuple[float, float]:
    """Return the distance of the centres of two boxes in pixels, and the white between them as a share of their height."""
    across = abs(other[0] + other[2] - one[0] - one[2]) / 2
    down = abs(other[1] + other[3] - one[1] - one[3]) / 2
    along, aside = (0, 1) if across >= down else (1, 0)
    white = max(one[along], other[along]) - min(one[along + 2], other[along + 2])
    height = max(one[aside + 2] - one[aside], other[aside + 2] - other[aside], 1)
    return max(across, down), white / height
