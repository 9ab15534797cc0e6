"""Crooked pages are read as well as straight ones, and their words are given where they stand on the page as sent."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from samples.make_samples import SAMPLES, draw_page, load_font
from serve_app.document import Block, Box, Page, RgbPixels
from serve_app.recognition.engines.figures import IMAGE, drop_edges
from serve_app.recognition.engines.straightening import straighten
from serve_app.recognition.engines.tesseract import TesseractEngine
from serve_app.recognition.engines.tesseract_blocks import boxes_read
from tests.support.engines import read_content
from tests.support.pictures import photo

TEXT = "\n\n".join(SAMPLES["page-ru"].body.split("\n\n")[:3])


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


PRICES = (("Лампа", "1 275,00", "14 025,00"), ("Стул", "1 640,00", "41 000,00"), ("Доставка", "3 500,00", "24,80"))


def page_of_prices() -> Image.Image:
    """A ruled table of numbers with spaces, some of which Tesseract does not see."""
    page = Image.new("RGB", (700, 400), "white")
    draw, font = ImageDraw.Draw(page), load_font("DejaVuSans.ttf", 28)
    for number, row in enumerate(PRICES):
        for column, cell in enumerate(row):
            x, y = 40 + column * 200, 60 + number * 62
            draw.rectangle((x, y, x + 200, y + 62), outline="black", width=2)
            draw.text((x + 14, y + 14), cell, font=font, fill="black")
    return page


@pytest.mark.parametrize(("degrees", "quarters"), [(0, 0), (-4, 0), (8, 0), (3, 1)])
def test_numbers_keep_the_spaces_that_the_picture_has(engine: TesseractEngine, degrees: int, quarters: int) -> None:
    pixels = np.ascontiguousarray(np.rot90(crooked(page_of_prices(), degrees), -quarters))
    page = read_content(engine, pixels).page
    expected = [part for row in PRICES for cell in row for part in cell.split()]
    assert page.text.split() == expected
    words = [word for block in page.blocks for word in block.words]
    assert [word.text for word in words] == expected
    ink = pixels[:, :, 0] < 128
    for word in words:
        left, top, right, bottom = word.bbox
        assert ink[top:bottom, left:right].any()


@pytest.mark.parametrize(("degrees", "quarters"), [(-9, 0), (3, 0), (-3, 1), (7, 2), (2, 3)])
def test_a_crooked_page_is_read_whole_and_its_words_stand_where_they_were_sent(
    engine: TesseractEngine, degrees: float, quarters: int
) -> None:
    pixels = np.rot90(crooked(page_of_text(), degrees), -quarters)  # clockwise
    page = read_content(engine, pixels).page
    assert flat(page.text) == flat(TEXT)
    assert page.rotation == quarters * 90
    assert page.skew == pytest.approx(degrees, abs=0.2)
    assert (page.height, page.width) == pixels.shape[:2]
    words_stand_on_ink(page, pixels)


def test_the_skew_of_a_photographed_sheet_is_as_large_as_it_is(engine: TesseractEngine) -> None:
    sheet = page_of_text().convert("RGBA")
    corners = np.array([(-620, -400), (620, -400), (700, 400), (-700, 400)])
    turn = np.radians(16)
    corners = corners @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] + (900, 700)
    rows = []
    for (x, y), (u, v) in zip(corners.tolist(), [(0, 0), (1400, 0), (1400, 800), (0, 800)], strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    to_sheet = np.linalg.solve(rows, [0, 0, 1400, 0, 1400, 800, 0, 800]).tolist()
    photograph = Image.new("RGB", (1800, 1400), (96, 66, 45))
    seen = sheet.transform(photograph.size, Image.Transform.PERSPECTIVE, to_sheet, Image.Resampling.BICUBIC)
    photograph.paste(seen, mask=seen.getchannel("A"))

    page = read_content(engine, np.asarray(photograph)).page

    assert flat(page.text) == flat(TEXT)
    assert page.skew == pytest.approx(16, abs=1)
    for word in page.blocks[0].words:
        assert word.polygon is not None
        (x, y), (x1, y1) = word.polygon[:2]
        assert np.degrees(np.arctan2(y1 - y, x1 - x)) == pytest.approx(16, abs=3)


def test_a_straight_page_has_no_skew_and_no_polygons(engine: TesseractEngine) -> None:
    page = read_content(engine, np.asarray(page_of_text("Ровная строка."))).page
    assert (page.text, page.skew) == ("Ровная строка.", 0)
    assert all(block.polygon is None for block in page.blocks)
    assert all(word.polygon is None for block in page.blocks for word in block.words)


def test_a_figure_of_a_crooked_page_is_cut_out_level_and_its_place_is_on_the_page_as_sent(
    engine: TesseractEngine,
) -> None:
    picture = photo(500, 340)
    page = Image.new("RGB", (1000, 1000), "white")
    page.paste(draw_page(TEXT.split("\n\n")[0], size=(1000, 360), margin=80), (0, 0))
    page.paste(picture, (300, 400))
    pixels = crooked(page, 6)
    reading = read_content(engine, pixels)
    (figure,) = reading.figures
    (block,) = (block for block in reading.page.blocks if block.figure == figure.path)
    height, width = pixels.shape[:2]
    middle = np.asarray(block.polygon).mean(axis=0)
    angle = np.radians(6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.abs(middle - (width / 2, height / 2) - turn @ (550 - 500, 570 - 500)).max() < 8
    left, top, right, bottom = block.bbox
    assert right - left > 520 and bottom - top > 380
    with Image.open(io.BytesIO(figure.jpeg)) as level:
        assert abs(level.width - 500) <= 12 and abs(level.height - 340) <= 12
        shown, drawn = (np.asarray(each.resize((20, 14), Image.Resampling.BOX), np.int16) for each in (level, picture))
        assert np.abs(shown - drawn).mean() < 12


@pytest.mark.parametrize(
    ("place", "stays"),
    [
        ((0, 0, 80, 1100), False),  # a gutter
        ((0, 0, 1000, 70), False),  # a lid
        ((0, 0, 1000, 900), False),  # paper between three edges
        ((300, 300, 800, 640), True),
        ((0, 300, 300, 700), True),  # a picture at an edge
    ],
)
def test_edges_of_a_crooked_page_as_sent_are_no_figures(place: Box, stays: bool) -> None:
    page = straighten(np.full((1100, 1000, 3), 255, np.uint8), 6, max_side=5000)
    left, top, right, bottom = place
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    angle = np.radians(6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    height, width = page.pixels.shape[:2]
    outline = (corners - (500, 550)) @ turn.T + (width / 2, height / 2)
    bounds = (*outline.min(axis=0).astype(int).tolist(), *outline.max(axis=0).astype(int).tolist())
    text = Block(label="text", text="a", bbox=(0, 0, 9, 9), order=0)
    block = Block(label=IMAGE, text="", bbox=bounds, polygon=[(x, y) for x, y in outline.tolist()], order=1)
    assert drop_edges([text, block], page) == ([text, block] if stays else [text])


def test_a_dark_half_of_the_page_that_passes_for_a_picture_is_not_taken_for_read() -> None:
    shade, picture = (0, 0, 1000, 1000), (300, 300, 800, 640)
    blocks = [Block(label=IMAGE, text="", bbox=box, order=0) for box in (shade, picture)]
    assert boxes_read(blocks, 1000, 1100) == [picture]
