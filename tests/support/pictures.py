"""Pictures for tests that engines take for photographs."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from serve_app.document import RgbPixels


def photo(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Soft patches of colour with grain on them, RGB; the same pixels for the same arguments."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 230, (6, 6, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 10, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(patches) + grain, 0, 255).astype(np.uint8))


@functools.cache
def noise_page(seed: int = 0, size: int = 200) -> bytes:
    """A PNG that does not get smaller, of 0.1 MB."""
    return png_of(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def png_of(pixels: RgbPixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
