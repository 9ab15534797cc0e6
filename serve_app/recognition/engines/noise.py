"""Smooths pages that are noisy all over, such as photographs in the dark: Tesseract finds no lines on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serve_app.recognition.engines.grey import GreyPixels

MOST_NOISE = 23.0
"""Standard deviation of the noise, in grey levels as `noise_of` measures it, up to which a page is read as it is. Noise of
35 levels measures 19, as white stays white half of the time; Tesseract reads 0.99 of the words then. With 50 levels, which
measure 27, it reads none, and smoothed 0.96 to 1.00."""

RADIUS = 1.0
"""Radius of the Gaussian blur, in pixels. With 1.5, small digits are lost."""

_BANDS, _BAND_ROWS = 8, 64
"""Rows that are looked at, spread over the page: 1 ms on A4."""


def without_noise(grey: GreyPixels) -> GreyPixels:
    """Return the page smoothed if it is noisy all over, else the same array."""
    if noise_of(grey) <= MOST_NOISE:
        return grey
    return np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(RADIUS)))


def noise_of(grey: GreyPixels) -> float:
    """Return the standard deviation of the noise in grey levels, of shape (height, width); 0 for a clean page.

    The mask is that of Immerkaer, "Fast Noise Variance Estimation", 1996: edges and even slopes give 0. The median is that
    of all pixels, so that letters and pictures do not count.
    """
    if min(grey.shape) < 3:
        return 0.0
    return float(np.median(np.concatenate([_masked(rows) for rows in bands(grey)]))) / 0.6745 / 6


def bands(grey: GreyPixels) -> list[npt.NDArray[np.int16]]:
    """Return bands of rows that are spread over the page: enough to judge its pixels by."""
    starts = np.linspace(0, max(grey.shape[0] - _BAND_ROWS, 0), _BANDS).astype(int)
    return [grey[start : start + _BAND_ROWS].astype(np.int16) for start in starts]


def _masked(rows: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    # Every second column is enough.
    across = rows[:, :-2:2] - 2 * rows[:, 1:-1:2] + rows[:, 2::2]
    masked: npt.NDArray[np.int16] = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    return masked.ravel()
