"""The angle of a crooked page, on drawn pages whose angle is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from samples.make_samples import SAMPLES, draw_page
from serve_app.document import RgbPixels
from serve_app.recognition.engines.skew import MAX_SKEW, find_skew
from tests.support.pictures import photo

LINES = "\n\n".join(SAMPLES["page-ru"].body.split("\n\n")[:4])


@cache
def page_of_text() -> Image.Image:
    return draw_page(LINES, size=(1240, 1100))


@cache
def one_line() -> Image.Image:
    return draw_page("На этой странице стоит одна строка.", size=(1240, 1100))


@cache
def columns() -> Image.Image:
    return draw_page(SAMPLES["page-en"].body, columns=2, font_px=26, size=(1400, 1400))


@cache
def table() -> Image.Image:
    page = Image.new("L", (1240, 1100), 255)
    draw = ImageDraw.Draw(page)
    for row in range(12):
        page.paste(
            draw_page(f"Склад {row * 7} шт.", size=(360, 60), margin=10, font_px=28),
            (150, 80 + row * 80),
        )
    for y in range(70, 1031, 80):
        draw.line((140, y, 1100, y), fill=0, width=3)
    for x in (140, 620, 1100):
        draw.line((x, 70, x, 1030), fill=0, width=3)
    return page


@cache
def illustrated() -> Image.Image:
    page = page_of_text().copy()
    page.paste(photo(700, 380).convert("L"), (270, 690))
    return page


@cache
def light_on_dark() -> Image.Image:
    return Image.fromarray(255 - np.asarray(page_of_text()))


def crooked(page: Image.Image, degrees: float, *, paper: int = 255) -> Image.Image:
    """The page turned clockwise, with nothing cut off. Grey pages stay grey: that is quicker."""
    ground = paper if page.mode == "L" else (paper,) * 3
    return page.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=ground)


def rgb(page: Image.Image) -> RgbPixels:
    return np.asarray(page.convert("RGB"))


@pytest.mark.parametrize("degrees", [-10, -3.4, 0.6, 2, 7.3, 10])
@pytest.mark.parametrize("draw", [page_of_text, one_line, columns, table, illustrated])
def test_the_angle_is_found_to_a_fifth_of_a_degree(draw: Callable[[], Image.Image], degrees: float) -> None:
    assert find_skew(rgb(crooked(draw(), degrees))) == pytest.approx(degrees, abs=0.2)


@pytest.mark.parametrize("degrees", [-10, -3.7, 8])
def test_the_angle_of_two_words_on_a_large_page_is_found_well_enough_to_read_them(degrees: float) -> None:
    assert find_skew(rgb(crooked(draw_page("Привет, мир"), degrees))) == pytest.approx(degrees, abs=1)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("degrees", [-8, 0, 3])
def test_the_angle_is_found_on_pages_that_are_also_turned(quarters: int, degrees: float) -> None:
    assert find_skew(np.rot90(rgb(crooked(page_of_text(), degrees)), quarters)) == pytest.approx(degrees, abs=0.2)


def test_the_angle_is_found_on_a_shaded_noisy_photograph_with_a_dark_margin() -> None:
    page = crooked(page_of_text(), 5, paper=25)
    desk = Image.new("RGB", (page.width + 200, page.height + 150), (25, 25, 25))
    desk.paste(page, (120, 60))
    shade = np.linspace(1.0, 0.5, desk.width)[None, :, None]
    noise = np.random.default_rng(0).normal(0, 10, (desk.height, desk.width, 1))
    assert find_skew(np.clip(rgb(desk) * shade + noise, 0, 255).astype(np.uint8)) == pytest.approx(5, abs=0.2)


def test_straight_edges_and_streaks_of_a_scanner_do_not_hide_the_angle_of_the_text() -> None:
    scan = rgb(crooked(page_of_text(), 2, paper=245)).copy()
    scan[:14], scan[-9:], scan[:, -40:], scan[:, 300:302], scan[700:703, 300:900] = 25, 30, 20, 120, 60
    assert find_skew(scan) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("degrees", [-1.2, 0.9, 4])
def test_the_angle_of_blurred_text_is_found(degrees: float) -> None:
    blurred = crooked(page_of_text(), degrees).filter(ImageFilter.GaussianBlur(5))
    assert find_skew(rgb(blurred)) == pytest.approx(degrees, abs=0.2)


def test_the_angle_of_a_fax_with_a_dithered_photograph_is_found() -> None:
    assert find_skew(rgb(crooked(illustrated(), -3).convert("1"))) == pytest.approx(-3, abs=0.2)


def test_the_angle_of_light_text_on_a_dark_page_is_found() -> None:
    assert find_skew(rgb(crooked(light_on_dark(), -4, paper=0))) == pytest.approx(-4, abs=0.2)


@pytest.mark.parametrize("draw", [page_of_text, one_line, columns, table, illustrated, light_on_dark])
@pytest.mark.parametrize("degrees", [0, 0.15])
def test_a_straight_page_has_no_angle(draw: Callable[[], Image.Image], degrees: float) -> None:
    assert find_skew(rgb(crooked(draw(), degrees))) == 0


@pytest.mark.parametrize("text", ["Да", "7", "12345", "— 17 —", "Привет, мир", "Hello world", "typography"])
@pytest.mark.parametrize("size", [(900, 200), (1654, 2339)])
def test_a_straight_word_or_character_has_no_angle(text: str, size: tuple[int, int]) -> None:
    assert find_skew(rgb(draw_page(text, size=size, margin=50))) == 0


def test_pages_without_text_have_no_angle() -> None:
    random = np.random.default_rng(0)
    assert find_skew(np.full((1100, 1240, 3), 255, np.uint8)) == 0
    assert find_skew(random.integers(0, 256, (1100, 1240, 3), np.uint8)) == 0
    assert find_skew(rgb(photo(1240, 1100))) == 0
    assert find_skew(np.clip(random.normal(220, 12, (1100, 1240, 1)) + np.zeros(3), 0, 255).astype(np.uint8)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (31, 2000), (2000, 31), (41, 41), (30_000, 1), (3, 30_000), (64, 30_000)])
def test_pages_of_odd_shapes_have_no_angle(shape: tuple[int, int]) -> None:
    for value in (0, 255):
        assert find_skew(np.full((*shape, 3), value, np.uint8)) == 0
    assert abs(find_skew(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))) <= MAX_SKEW


@pytest.mark.parametrize("degrees", [15, 30, 45])
def test_an_angle_beyond_the_range_is_not_taken_for_another(degrees: float) -> None:
    assert find_skew(rgb(crooked(page_of_text(), degrees))) == 0
