"""Blurred pages are told from sharp, noisy and empty ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from samples.make_samples import draw_page
from serve_app.recognition.engines.blur import LEAST_STEEPNESS, sharpened, steepness_of
from serve_app.recognition.engines.grey import GreyPixels


def page(blur: float = 0.0) -> GreyPixels:
    drawn = draw_page("Two lines of text\nstand on this page.", size=(600, 300), margin=50)
    return np.asarray(drawn.convert("L").filter(ImageFilter.GaussianBlur(blur)))


@pytest.mark.parametrize("blur", [2.0, 2.5, 3.0])
def test_a_blurred_page_is_sharpened(blur: float) -> None:
    blurred = page(blur)
    assert steepness_of(blurred) < LEAST_STEEPNESS
    before, after = (np.abs(np.diff(grey.astype(int), axis=1)).max() for grey in (blurred, sharpened(blurred)))
    assert after > before


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_a_sharp_page_stays_as_it_is(blur: float) -> None:
    sharp = page(blur)
    assert sharpened(sharp) is sharp


def test_faint_print_is_judged_as_black_print_is() -> None:
    faint, faint_blurred = (200 + (shape // 5) for shape in (page(), page(2.0)))
    assert sharpened(faint) is faint
    assert sharpened(faint_blurred) is not faint_blurred


def test_noise_is_not_sharpened() -> None:
    noisy = page(2.0) + np.random.default_rng(1).normal(0, 25, (300, 600))
    grey = noisy.clip(0, 255).astype(np.uint8)
    assert sharpened(grey) is grey


@pytest.mark.parametrize("shape", [(1, 1), (3, 3000), (3000, 3), (9, 9), (0, 9)])
def test_pages_of_odd_shapes_and_empty_pages(shape: tuple[int, int]) -> None:
    grey = np.full(shape, 255, np.uint8)
    assert sharpened(grey) is grey


def test_one_letter_on_a_large_page_is_judged_by_its_edges() -> None:
    large = np.full((2000, 1500), 255, np.uint8)
    draw = Image.fromarray(large)
    draw.paste(0, (700, 300, 710, 1600))
    assert steepness_of(np.asarray(draw)) == pytest.approx(1.0)
    assert steepness_of(np.asarray(draw.filter(ImageFilter.GaussianBlur(2.5)))) < LEAST_STEEPNESS
