"""Draws the blocks that Tesseract finds on the sample pages, into docs/images, for README.md and README.ru.md.

python samples/draw_blocks.py [FOLDER]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from serve_app.document import PageImage
from serve_app.document.options import RecognitionOptions
from serve_app.errors import ServiceError
from serve_app.recognition.engines import Engine, PageTask, create_engine
from serve_app.recognition.overlay import overlay
from serve_app.settings import TesseractSettings

ROOT = Path(__file__).parents[1]
WIDTH = 640
"""A README has no room for a larger picture of a whole page."""
MARGIN = 40
EDGE = "#bbbbbb"


def draw_blocks(engine: Engine, sample: Path) -> Image.Image:
    """The blocks of the page, outlined with their words, WIDTH pixels wide. Raises the engine's error."""
    with Image.open(sample) as image:
        pixels = np.ascontiguousarray(image.convert("RGB"))
    (analyzed,) = engine.analyze([PageTask(PageImage(pixels, 1, 200, 0.0), RecognitionOptions())])
    content = analyzed if isinstance(analyzed, ServiceError) else engine.read(analyzed)
    if isinstance(content, ServiceError):
        raise content
    boxes = [block.bbox for block in content.page.blocks]
    left, top, right, bottom = (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes) - MARGIN // 2,  # room for the tag above the first block
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )
    with Image.open(io.BytesIO(overlay(pixels, content.page))) as drawn:
        part = drawn.crop((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
    height = round(part.height * WIDTH / part.width)
    return ImageOps.expand(part.resize((WIDTH, height), Image.Resampling.LANCZOS), border=1, fill=EDGE)


def main(folder: Path) -> None:
    engine = create_engine(TesseractSettings(), page_s=60)
    engine.load()
    for name in ("page-en", "page-ru"):
        picture = draw_blocks(engine, ROOT / "samples" / f"{name}.png")
        picture.quantize(128).save(folder / f"{name}-blocks.png", optimize=True)
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
