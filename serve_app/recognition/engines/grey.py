"""Makes grey pages for an engine that divides pixels into ink and paper: the page as it is, or with its ground made even.

Tesseract divides the channels of a colour page one by one and takes for ink what is dark in any of them, so a yellow marker
is as black as the letters under it. In grey it is light.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve_app.document import RgbPixels

GreyPixels = npt.NDArray[np.uint8]
"""Shape (height, width); 0 is black."""

SAMPLES_PER_LETTER = 7
"""The ground is sampled this often over a letter's height: often enough to follow the edges of a table's cells."""

REACH = 5
"""The ground is the median of a square that reaches so many samples to each side, one and a half letters in all: ink covers
less than half of it, and a marked line or a table's cell more."""

MIN_CONTRAST_RANGE = 64
"""Least range between ground and ink that is stretched to the full range. In darker shade, noise would look like ink."""

_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-3, -3), (-3, 3), (3, -3), (3, 3))
"""Samples to all sides where a pixel's ground may be: medians are off by one along an edge, and by three in a corner."""


def luminance(pixels: RgbPixels) -> GreyPixels:
    """Return the luminance of RGB pixels of shape (height, width, 3). Grey pixels keep their value exactly."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def even(pixels: RgbPixels, letter: int) -> GreyPixels:
    """Return a page in grey whose ground is white everywhere, and whose ink is the darker the more it differs from the ground.

    Colours, shade and light letters on dark are evened out. Pictures are lost: what is soft in them becomes white.
    `letter`: height of a usual letter in pixels.
    """
    if (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    height, width, channels = pixels.shape
    step = max(1, round(letter / SAMPLES_PER_LETTER))
    grounds = [_ground(pixels[..., channel], step) for channel in range(channels)]
    contrast = np.full((height, width), 255, np.uint8)
    for down, across in _SHIFTS:
        # Along the edge between two grounds, a pixel belongs to the one that it is nearer to.
        shifted = np.zeros((height, width), np.uint8)
        for channel, ground in enumerate(grounds):
            near = _moved(ground, down, across).repeat(step, 0)[:height].repeat(step, 1)[:, :width]
            np.maximum(shifted, _contrast(pixels[..., channel], near), out=shifted)
        np.minimum(contrast, shifted, out=contrast)
    return 255 - contrast


def even_plain(pixels: RgbPixels) -> GreyPixels:
    """Return a page in grey as `even` does, if its ground is the same everywhere. Anything on another ground counts as ink."""
    contrast = np.zeros(pixels.shape[:2], np.uint8)
    levels = np.arange(256, dtype=np.uint8)
    for channel in range(1 if (pixels[..., :1] == pixels).all() else pixels.shape[2]):
        values = pixels[..., channel]
        ground = np.uint8(np.median(values[::4, ::4]))
        np.maximum(contrast, _contrast(levels, np.full(256, ground))[values], out=contrast)
    return 255 - contrast


def _ground(channel: GreyPixels, step: int) -> GreyPixels:
    """Return the ground of each square of `step` pixels, for the whole page."""
    height, width = channel.shape
    rows, columns = -(-height // step), -(-width // step)
    samples = channel[
        np.minimum(np.arange(rows) * step + step // 2, height - 1)[:, None],
        np.minimum(np.arange(columns) * step + step // 2, width - 1),
    ]
    side = 2 * REACH + 1
    squares = np.lib.stride_tricks.sliding_window_view(np.pad(samples, REACH, mode="edge"), (side, side))
    half = squares[..., ::2, ::2].reshape(rows * columns, -1)  # a quarter of the samples gives the same median
    middle = half.shape[1] // 2
    return np.partition(half, middle, axis=1)[:, middle].reshape(rows, columns)


def _moved(ground: GreyPixels, down: int, across: int) -> GreyPixels:
    rows = np.clip(np.arange(ground.shape[0]) + down, 0, ground.shape[0] - 1)
    columns = np.clip(np.arange(ground.shape[1]) + across, 0, ground.shape[1] - 1)
    return ground[rows[:, None], columns]


def _contrast(channel: GreyPixels, ground: GreyPixels) -> GreyPixels:
    """Return how much pixels differ from their ground, as a share (of 255) of the most that they could."""
    darker = np.minimum(channel, ground)
    difference = np.maximum(channel, ground) - darker
    room = np.where(channel < ground, ground, 255 - ground)
    share = difference.astype(np.uint16) * 255 // np.maximum(room, MIN_CONTRAST_RANGE)
    contrast: GreyPixels = np.minimum(share, 255).astype(np.uint8)
    return contrast
