"""Numbers whose groups of digits were joined are parted where the picture shows a space."""

from __future__ import annotations

from itertools import pairwise

import pytest
from PIL import ImageFont

from samples.make_samples import load_font
from serve_app.document import Box
from serve_app.recognition.engines.number_gaps import Symbol, parted


def symbols(font: ImageFont.FreeTypeFont, line: str, *, spacing: int = 0) -> list[Symbol]:
    """The characters of a line with the boxes of their ink, as Tesseract gives them."""
    found = list[Symbol]()
    left = 0.0
    for character in line:
        mask, (across, down) = font.getmask2(character, mode="1")
        ink = mask.getbbox()
        if ink is not None:
            x = round(left) + across
            found.append((character, (x + ink[0], down + ink[1], x + ink[2], down + ink[3])))
        left += font.getlength(character) + spacing
    return found


def texts(groups: list[list[Symbol]]) -> list[str]:
    return ["".join(text for text, _ in group) for group in groups]


@pytest.mark.parametrize("name", ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"])
@pytest.mark.parametrize("number", ["1 275,00", "7 440", "273 587,00", "12 345 678", "4276 5500", "(1 275)"])
def test_digits_with_a_space_between_them_are_parted(name: str, number: str) -> None:
    assert texts(parted(symbols(load_font(name, 28), number))) == number.split()


@pytest.mark.parametrize(
    "number", ["1275,00", "1111,11", "2115", "7711140", "10.11.2026", "+74951112233", "1:11", "11"]
)
@pytest.mark.parametrize("spacing", [0, 12])
def test_digits_at_one_distance_stay_together(number: str, spacing: int) -> None:
    assert texts(parted(symbols(load_font("DejaVuSans.ttf", 28), number, spacing=spacing))) == [number]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_numbers_of_turned_pages_are_parted_too(quarters: int) -> None:
    turned = symbols(load_font("DejaVuSans.ttf", 28), "1 275,00")
    for _ in range(quarters):
        turned = [(text, clockwise(box)) for text, box in turned]
    assert texts(parted(turned)) == ["1", "275,00"]


def test_digits_that_touch_stay_together() -> None:
    """Two digits may share a box; then centres are far apart without white between them."""
    boxes = [(0, 0, 10, 20), (11, 0, 40, 20), (41, 0, 51, 20), (52, 0, 62, 20), (63, 0, 73, 20)]
    assert all(one[2] < other[0] for one, other in pairwise(boxes))
    assert texts(parted(list(zip("12345", boxes, strict=True)))) == ["12345"]


def clockwise(box: Box) -> Box:
    left, top, right, bottom = box
    return 1000 - bottom, left, 1000 - top, right
