"""Pictures for tests that engines take for photographs."""

from __future__ import annotations

import numpy as np
from PIL import Image


def photo(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Soft patches of colour with grain on them, RGB; the same pixels for the same arguments."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 230, (6, 6, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 10, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(patches) + grain, 0, 255).astype(np.uint8))
