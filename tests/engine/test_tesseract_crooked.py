"""Crooked pages are read as well as straight ones, and their words are given where they stand on the page as sent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from samples.make_samples import SAMPLES, draw_page
from serve_app.document import Page, PageContent, PageImage, RgbPixels
from serve_app.document.options import RecognitionOptions
from serve_app.recognition.engines import PageTask
from serve_app.recognition.engines.tesseract import TesseractEngine
from serve_app.settings import TesseractSettings
from tests.support.engines import read_whole

TEXT = "\n\n".join(SAMPLES["page-ru"].body.split("\n\n")[:3])


@pytest.fixture(scope="module")
def engine() -> Iterator[TesseractEngine]:
    engine = TesseractEngine(TesseractSettings(), page_s=60)
    engine.load()
    yield engine
    engine.close()


def read(engine: TesseractEngine, pixels: RgbPixels) -> PageContent:
    task = PageTask(PageImage(np.ascontiguousarray(pixels), 1, 200, 0.0), RecognitionOptions())
    (reading,) = read_whole(engine, [task])
    assert isinstance(reading, PageContent), reading
    return reading


def page_of_text(text: str = TEXT) -> Image.Image:
    return draw_page(text, size=(1400, 800), margin=100).convert("RGB")


def crooked(page: Image.Image, degrees: float) -> RgbPixels:
    """The page turned clockwise, with nothing cut off."""
    return np.asarray(page.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(255, 255, 255)))


def flat(text: str) -> str:
    return " ".join(text.split())


def words_stand_on_ink(page: Page, pixels: RgbPixels) -> None:
    """Each word's polygon runs along the text, and together they hold all ink."""
    covered = np.zeros(pixels.shape[:2], bool)
    across, down = np.meshgrid(np.arange(page.width) + 0.5, np.arange(page.height) + 0.5)
    for block in page.blocks:
        assert block.polygon is not None and len(block.polygon) == 4
        for word in block.words:
            corners = np.asarray(word.polygon)
            left, top, right, bottom = word.bbox
            assert (corners >= (left - 1, top - 1)).all() and (corners <= (right + 1, bottom + 1)).all()
            along = corners[1] - corners[0]
            angle = np.degrees(np.arctan2(along[1], along[0]))
            assert (angle - page.rotation - page.skew + 180) % 360 - 180 == pytest.approx(0, abs=2)
            part = np.s_[top:bottom, left:right]
            inside = np.ones(across[part].shape, bool)
            for (x, y), (to_x, to_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                inside &= (to_x - x) * (down[part] - y) - (to_y - y) * (across[part] - x) >= 0
            covered[part] |= inside
    ink = pixels[:, :, 0] < 128
    assert (ink & covered).sum() > 0.98 * ink.sum()
    assert covered.mean() < 0.3


@pytest.mark.parametrize(("degrees", "quarters"), [(-9, 0), (3, 0), (-3, 1), (7, 2), (2, 3)])
def test_a_crooked_page_is_read_whole_and_its_words_stand_where_they_were_sent(
    engine: TesseractEngine, degrees: float, quarters: int
) -> None:
    pixels = np.rot90(crooked(page_of_text(), degrees), -quarters)  # clockwise
    page = read(engine, pixels).page
    assert flat(page.text) == flat(TEXT)
    assert page.rotation == quarters * 90
    assert page.skew == pytest.approx(degrees, abs=0.2)
    assert (page.height, page.width) == pixels.shape[:2]
    words_stand_on_ink(page, pixels)


def test_a_straight_page_has_no_skew_and_no_polygons(engine: TesseractEngine) -> None:
    page = read(engine, np.asarray(page_of_text("Ровная строка."))).page
    assert (page.text, page.skew) == ("Ровная строка.", 0)
    assert all(block.polygon is None for block in page.blocks)
    assert all(word.polygon is None for block in page.blocks for word in block.words)
