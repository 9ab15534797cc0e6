"""Text on grounds of any colour and shade is read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from samples.make_samples import draw_page, load_font
from serve_app.document import Page
from serve_app.recognition.engines import Engine
from tests.support.engines import read_page

LINES = (
    "Every crate must carry the stamp.",
    "Водители ждут у северных ворот.",
    "Refunds are paid within seven days.",
    "Деньги возвращают за семь дней.",
)
SIZE = (900, 420)


def lines_of(page: Page) -> list[str]:
    return page.text.replace("\n\n", "\n").split("\n")


def four_lines() -> Image.Image:
    return draw_page("\n".join(LINES), size=SIZE, margin=60).convert("RGB")


@pytest.mark.parametrize(
    "colour", [(255, 240, 0), (0, 200, 80), (255, 110, 190), (230, 20, 20), (0, 220, 255), (40, 90, 220)]
)
def test_a_line_under_a_marker_is_read(engine: Engine, colour: tuple[int, int, int]) -> None:
    marks = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(marks).rectangle((40, 108, 860, 156), fill=colour)
    page = read_page(engine, np.asarray(ImageChops.multiply(four_lines(), marks)))
    assert lines_of(page) == list(LINES)


@pytest.mark.parametrize("ink", ["black", "white"])
def test_cells_of_strong_colours_are_read(engine: Engine, ink: str) -> None:
    page = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(page), load_font("DejaVuSans.ttf", 30)
    for row, (line, colour) in enumerate(zip(LINES, ("", "#e61414", "", "#285adc"), strict=True)):
        if row % 2:
            draw.rectangle((40, 40 + 85 * row, 860, 110 + 85 * row), fill=colour)
        draw.text((60, 56 + 85 * row), line, font=font, fill=ink if row % 2 else "black")
    assert lines_of(read_page(engine, np.asarray(page))) == list(LINES)


def test_lines_in_the_shade_are_read(engine: Engine) -> None:
    light = np.where(np.arange(SIZE[1])[:, None, None] < 150, 1.0, 0.35)
    page = read_page(engine, (np.asarray(four_lines()) * light).astype(np.uint8))
    assert lines_of(page) == list(LINES)


def test_light_text_on_a_dark_colour_is_read(engine: Engine) -> None:
    share = np.asarray(four_lines()) / 255
    pixels = np.array((250, 240, 120)) * (1 - share) + np.array((20, 40, 110)) * share
    assert lines_of(read_page(engine, pixels.astype(np.uint8))) == list(LINES)
