"""Finds the angle of a crooked page by projection profiles.

Along the right angle, ink adds up to sharp lines with white between them; along any other angle, lines blur into each
other. Tesseract's own layout analysis gives an angle too, but at more than two degrees it is wrong.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.document import RgbPixels

MAX_SKEW = 12.0
"""Largest angle in degrees that is taken for a page's skew. Ten are promised; a few letters are not measured more closely."""

MIN_SKEW = 0.3
"""Smallest angle in degrees that counts. Tesseract reads pages up to a degree off as well as straight ones."""

SEARCHED = 13.0
"""Angles are compared up to here, so that one at the end of the range can be told from the slope towards another."""

COARSE_STEP, FINE_STEP = 0.5, 0.1
"""Degrees between the angles that are compared, first over the whole range, then around the best."""

CLEAR = 2.0
"""Least clarity of an angle: the ratio of the sharpest profile to the median one. It is 1.0 to 1.5 without lines of text,
2 to 5 for a word or two, and 15 to 70 for lines and pages."""

OBVIOUS = 20.0
"""Clarity of an angle that needs no comparison with any other."""

VAGUE = 5.0
"""A few letters show an angle of (VAGUE / clarity)² degrees even if they are straight, as their heights differ."""

MAX_AREA = 1_200_000
"""Largest number of pixels of the reduced copy; an A4 page at 200 or 300 dpi becomes 1.0 million."""

LITTLE = 0.25
"""Text on less than this share of a page is measured again at full resolution."""

SPECK = 3
"""Rows and columns of the reduced copy with no more ink than this, in pixels, hold specks."""

MIN_SIDE = 32
"""Least width and height of the reduced copy. Less than that shows no angle."""

STROKE = 16
"""Ink is narrower than this, in pixels of the reduced copy. A power of two. Shadows, desks and lids are wider."""

MIN_CONTRAST = 24
"""Least difference between ink and the paper around it, in grey levels."""

NOISE = 3
"""Least contrast of ink as a multiple of the paper's own."""

GREY = 0.3
"""Least contrast of ink as a share of the page's blackest: blurred letters would run into each other."""

EDGE_SHARE, EDGE_RUN = 0.25, 4 * STROKE
"""A row or column of the picture with more ink than this share of it, in runs longer on average than this many pixels of the
reduced copy, is a straight edge, a fold or a streak of the scanner. It would outweigh the text that is crooked to it."""

STRIP = 8
"""Width of the strips whose ink is added up before they are shifted, in pixels: as many as a byte has bits."""

_Bytes = npt.NDArray[np.uint8]
_Ink = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.floating[Any]]


def find_skew(pixels: RgbPixels) -> float:
    """Return the degrees clockwise by which a page is off the nearest quarter turn, from -MAX_SKEW to MAX_SKEW.

    `pixels`: RGB, uint8, shape (height, width, 3). Lines of text may run across or down the picture, so pages that are
    also turned by 90, 180 or 270 degrees are measured too. Returns 0.0 for pages that are straight to within MIN_SKEW,
    and where no angle stands out. The result is within 0.2 degrees of the true angle.
    """
    ink = _ink(_reduced(pixels))
    clarity, skew = _clearest(ink)
    if clarity < OBVIOUS:
        closer = _text_alone(pixels, ink)
        if closer is not None:
            clarity, skew = max((clarity, skew), _clearest(_ink(_reduced(closer))))
    least = max(MIN_SKEW, (VAGUE / max(clarity, 1.0)) ** 2)
    return skew if clarity >= CLEAR and least <= abs(skew) <= MAX_SKEW else 0.0


def _clearest(ink: _Ink) -> tuple[float, float]:
    """Return the clarity of the clearest angle of the ink, and the angle as in `find_skew`."""
    if min(ink.shape) < MIN_SIDE:
        return 0.0, 0.0
    clarity, skew = _peak(_strips(ink))  # of lines that run across
    if clarity < OBVIOUS:
        # Lines that run up or down are measured as in a mirror, in which clockwise is the other way round.
        clarity_down, mirrored = _peak(_strips(ink.T))
        if clarity_down > clarity:
            return clarity_down, -mirrored
    return clarity, skew


def _text_alone(pixels: RgbPixels, ink: _Ink) -> RgbPixels | None:
    """Return the part of a large page that holds all of its text, if that is little; None if a closer look shows no more.

    `ink` is that of the reduced copy.
    """
    step = _step(pixels)
    if step == 1:
        return None
    rows, columns = (np.flatnonzero(np.count_nonzero(ink, axis=axis) > SPECK) for axis in (1, 0))
    if not rows.size or not columns.size:
        return None
    top, bottom = (rows[0] - STROKE) * step, (rows[-1] + STROKE) * step
    left, right = (columns[0] - STROKE) * step, (columns[-1] + STROKE) * step
    if (bottom - top) * (right - left) > LITTLE * pixels.shape[0] * pixels.shape[1]:
        return None
    return pixels[max(0, top) : bottom, max(0, left) : right]


def _step(pixels: RgbPixels) -> int:
    """Return by which factor a page is reduced, so that it has at most about MAX_AREA pixels."""
    height, width = pixels.shape[:2]
    return max(1, math.ceil(math.sqrt(height * width / MAX_AREA)))


def _reduced(pixels: RgbPixels) -> _Bytes:
    """Return a reduced copy in grey. The green channel stands for all."""
    height, width = pixels.shape[:2]
    step = _step(pixels)
    if step == 1:
        return np.ascontiguousarray(pixels[:, :, 1])
    rows, columns = height // step, width // step
    # Two pixels of each square are enough against noise, and quicker than all.
    one, other = (pixels[at : rows * step : step, at : columns * step : step, 1] for at in (0, step // 2))
    return (one >> 1) + (other >> 1)


def _ink(grey: _Bytes) -> _Ink:
    """Return where ink is: what is darker than paper on both sides, by more than the paper's noise, and not a straight edge.

    Light text on a dark page is ink too.
    """
    if np.median(grey[::8, ::8]) < 96:
        grey = ~grey
    contrast = _closed(grey) - grey
    amounts = np.bincount(contrast[::4, ::4].ravel(), minlength=256).cumsum()
    noise, black = np.searchsorted(amounts, (0.5 * amounts[-1], 0.99 * amounts[-1])).tolist()
    ink: _Ink = contrast > min(max(MIN_CONTRAST, NOISE * noise, GREY * black), 254)
    for lines in (ink, ink.T):
        lines[_edges(lines)] = False
    return ink


def _edges(lines: _Ink) -> npt.NDArray[np.intp]:
    """Return which of these rows of pixels are straight edges."""
    amount: npt.NDArray[np.intp] = np.count_nonzero(lines, axis=1)
    full: npt.NDArray[np.intp] = np.flatnonzero(amount > EDGE_SHARE * lines.shape[1])
    runs = 1 + np.count_nonzero(lines[full, 1:] > lines[full, :-1], axis=1)
    edges: npt.NDArray[np.intp] = full[amount[full] > EDGE_RUN * runs]
    return edges


def _closed(grey: _Bytes) -> _Bytes:
    """Fill whatever is dark and narrower than STROKE: take the maximum of each square, then the minimum of those."""
    filled = np.pad(grey, STROKE - 1, mode="edge")
    for extreme in (np.maximum, np.minimum):
        size = 1
        while size < STROKE:  # each step doubles the squares' sides
            filled = extreme(filled[size:], filled[:-size])
            filled = extreme(filled[:, size:], filled[:, :-size])
            size *= 2
    return filled


def _strips(ink: _Ink) -> _Bytes:
    """Return the ink in strips of columns, side by side: shape (strips, rows)."""
    return np.ascontiguousarray(np.bitwise_count(np.packbits(np.ascontiguousarray(ink), axis=1)).T)


def _peak(strips: _Bytes) -> tuple[float, float]:
    """Return the clarity and angle of the sharpest profile.

    `strips`: ink per strip and position, shape (strips, length). Clarity is the ratio to the median profile. The angle is
    in degrees; it is positive if lines move to higher positions from strip to strip.
    """
    count, length = strips.shape
    halved = strips[: count // 2 * 2, : length // 2 * 2]
    halved = halved[::2] + halved[1::2]
    halved = halved[:, ::2] + halved[:, 1::2]
    angles = np.arange(-SEARCHED, SEARCHED + COARSE_STEP / 2, COARSE_STEP)
    scores = _sharpness(halved, angles)
    best, median = int(scores.argmax()), float(np.median(scores))
    if median == 0:
        return 0.0, 0.0
    reach = COARSE_STEP + FINE_STEP
    nearby = angles[best] + np.arange(-reach, reach + FINE_STEP / 2, FINE_STEP)
    # Some angles seem sharper by chance, where whole pixels fit them. Their neighbours even that out.
    fine = np.convolve(_sharpness(strips, nearby), (1, 2, 1), mode="valid")
    return float(scores[best]) / median, _vertex(nearby[1:-1], fine)


def _vertex(angles: _Floats, scores: _Floats) -> float:
    """Return the angle of the highest score, between the steps: the vertex of the parabola through it and its neighbours."""
    best = min(max(int(scores.argmax()), 1), len(scores) - 2)
    before, at, after = scores[best - 1 : best + 2]
    bend = before - 2 * at + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(angles[best] + np.clip(shift, -1, 1) * (angles[1] - angles[0]))


def _sharpness(strips: _Bytes, angles: _Floats) -> npt.NDArray[np.float64]:
    """Return the sharpness of the profile along each angle: the sum of squared differences.

    Profiles are made by shifting the strips against each other and adding them up.
    """
    count, length = strips.shape
    places = (np.arange(count) - (count - 1) / 2) * STRIP
    offsets = np.rint(np.outer(places, np.tan(np.radians(angles)))).astype(int)
    reach = int(np.abs(offsets).max())
    profiles = np.zeros((len(angles), length + 2 * reach), np.uint16)
    # All angles take the same strip at once, each from its own place: an eighth of the time of one after the other.
    padded = np.zeros(length + 4 * reach, np.uint16)
    shifted = np.lib.stride_tricks.sliding_window_view(padded, length + 2 * reach)
    for strip, row in zip(strips, offsets, strict=True):
        padded[2 * reach : 2 * reach + length] = strip
        profiles += shifted[reach + row]
    smooth = profiles.astype(np.float64)
    steps = smooth[:, 2:] - smooth[:, :-2]  # of neighbours but one, as strips are shifted by whole pixels
    scores: npt.NDArray[np.float64] = np.einsum("ij,ij->i", steps, steps)
    return scores
