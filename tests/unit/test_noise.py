"""Noise of a page: what is measured, and what is smoothed."""

from __future__ import annotations

import numpy as np
import pytest

from samples.make_samples import draw_page
from serve_app.recognition.engines.grey import GreyPixels
from serve_app.recognition.engines.noise import noise_of, without_noise

PAGE = np.asarray(
    draw_page("Контора порта открыта с семи до девяти часов. " * 8, size=(800, 900), margin=60).convert("L")
)


def noisy(deviation: float, ground: float = 0.0) -> GreyPixels:
    values = PAGE * (1 - ground / 255) + ground / 2 + np.random.default_rng(1).normal(0, deviation, PAGE.shape)
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("deviation", [5, 10, 15])
def test_noise_is_measured_beside_letters(deviation: int) -> None:
    assert noise_of(noisy(deviation, ground=150)) == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("page", [PAGE, noisy(20), noisy(35), PAGE[:2], PAGE[:, :1], np.zeros((40, 40), np.uint8)])
def test_pages_that_can_be_read_stay_as_they_are(page: GreyPixels) -> None:
    assert without_noise(page) is page


def test_a_dithered_picture_on_a_page_is_no_noise() -> None:
    page = PAGE.copy()
    page[:400] = 255 * (np.random.default_rng(2).random((400, 800)) > 0.5)
    assert without_noise(page) is page


def test_a_page_noisy_all_over_is_smoothed() -> None:
    page = noisy(50)
    assert noise_of(without_noise(page)) < 10 < noise_of(page)
