"""The pictures of the READMEs are what the engine finds on the sample pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from samples.draw_blocks import ROOT, WIDTH, main


def test_the_pictures_of_the_readmes_are_what_tesseract_finds(tmp_path: Path) -> None:
    main(tmp_path)
    for name in ("page-en-blocks.png", "page-ru-blocks.png"):
        with Image.open(tmp_path / name) as drawn, Image.open(ROOT / "docs" / "images" / name) as committed:
            assert drawn.size == committed.size and drawn.width == WIDTH + 2, "run `make pictures`"
            new, old = (np.asarray(image.convert("RGB")).astype(int) for image in (drawn, committed))
        assert np.abs(new - old).mean() < 2, "run `make pictures`"
        tags = (np.abs(new - (0x1F, 0x77, 0xB4)) < 8).all(axis=2)  # the colour of the label `text`
        assert tags.mean() > 0.002, "no block is marked"
