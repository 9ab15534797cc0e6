"""The accuracy benchmark scores what was read, and its pages are what their steps say."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from benchmarks.accuracy import score
from benchmarks.degraded_pages import clean_pages, steps


@pytest.mark.parametrize(
    ("read", "found", "right"),
    [
        ("«раз» два, раз", 1.0, 1.0),
        ("раз два", 2 / 3, 1.0),  # the page has it twice
        ("раз, раз раз два", 1.0, 3 / 4),
        ("два\n— раз ... раз!", 1.0, 1.0),  # signs alone are no words, and the order does not count
        ("", 0.0, 0.0),
    ],
)
def test_words_count_as_often_as_they_are_on_the_page(read: str, found: float, right: float) -> None:
    scored = score(read, "Раз два раз".lower())
    assert (scored.found, scored.right) == (found, right)


def test_each_step_has_a_name_of_its_own_and_an_image_of_the_resolution_that_it_names() -> None:
    letter = clean_pages()[-1]
    assert len({step.name for step in steps()}) == len(steps())
    for step in (each for each in steps() if each.degradation in ("straight", "resolution, dpi", "JPEG, quality")):
        with Image.open(io.BytesIO(step.file(letter))) as image:
            assert round(image.info["dpi"][0]) == step.dpi
            assert image.width == pytest.approx(210 / 25.4 * step.dpi, abs=2)
