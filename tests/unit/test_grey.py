"""Grey pages for recognition, and patterns like letters that no word covers."""

from __future__ import annotations

import numpy as np
import pytest

from samples.make_samples import draw_page
from serve_app.document import Block, Box, RgbPixels, Word
from serve_app.recognition.engines.figures import IMAGE
from serve_app.recognition.engines.grey import even, even_plain, luminance
from serve_app.recognition.engines.two_readings import merged
from serve_app.recognition.engines.unread import has_unread_text

LETTER = 25
WHOLE: Box = (0, 0, 600, 300)


def page() -> RgbPixels:
    text = "Two lines of text\nstand on this page."
    return np.asarray(draw_page(text, size=(600, 300), margin=50).convert("RGB"))


def test_grey_pixels_keep_their_value() -> None:
    tones = np.arange(256, dtype=np.uint8)
    assert (luminance(np.repeat(tones[None, :, None], 3, axis=2)) == tones).all()


@pytest.mark.parametrize("ground", [(255, 255, 255), (255, 240, 0), (230, 20, 20), (40, 60, 200), (90, 90, 90)])
@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255)])
def test_an_even_page_is_white_with_dark_ink(ground: tuple[int, ...], ink: tuple[int, ...]) -> None:
    if ground == ink:
        return
    share = page() / 255
    coloured = (np.array(ink) * (1 - share) + np.array(ground) * share).astype(np.uint8)
    grey = even(coloured, LETTER)
    black, white = (share[:, :, 0] == 0), (share[:, :, 0] == 1)
    assert grey[white].min() > 200 and grey[black].max() < 100


def test_letters_outside_the_words_are_unread_text_and_rules_and_pictures_are_not() -> None:
    pixels = page()
    assert has_unread_text(pixels, [], LETTER)
    assert has_unread_text(pixels, [(0, 0, 600, 95)], LETTER)  # the second line
    assert not has_unread_text(pixels, [WHOLE], LETTER)
    ruled = np.full((600, 600, 3), 255, np.uint8)
    ruled[100::100] = ruled[101::100] = ruled[:, 100::100] = ruled[:, 101::100] = 0
    assert not has_unread_text(ruled, [], LETTER)


@pytest.mark.parametrize("ink", [(0, 0, 0), (200, 30, 30)])
@pytest.mark.parametrize("ground", [(255, 255, 255), (250, 235, 200)])
def test_a_plain_page_is_evened_alike_and_sooner(ink: tuple[int, ...], ground: tuple[int, ...]) -> None:
    share = page() / 255
    coloured = (np.array(ink) * (1 - share) + np.array(ground) * share).astype(np.uint8)
    assert np.abs(even_plain(coloured).astype(int) - even(coloured, LETTER)).max() <= 1


def test_light_letters_in_a_dark_box_are_unread_text() -> None:
    pixels = np.full((900, 600, 3), 255, np.uint8)
    pixels[:300] = 255 - page()
    pixels[600:] = page()
    assert has_unread_text(pixels, [(0, 600, 600, 900)], LETTER)
    assert not has_unread_text(pixels, [(0, 0, 600, 300), (0, 600, 600, 900)], LETTER)


def test_noise_is_no_unread_text() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), np.uint8)
    assert not has_unread_text(noise, [], LETTER)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3000), (3000, 3), (9, 9)])
def test_pages_of_odd_shapes(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    assert even(pixels, LETTER).shape == shape
    assert not has_unread_text(pixels, [], LETTER)


def block(text: str, box: Box, confidence: float = 0.9) -> Block:
    word = Word(text=text, bbox=box, confidence=confidence)
    return Block(label="text", text=text, bbox=box, order=0, confidence=confidence, words=[word])


def test_the_surer_reading_gets_what_only_the_first_has() -> None:
    picture = Block(label=IMAGE, text="", bbox=(0, 200, 600, 300), order=0)
    first = [block("TITLE", (0, 0, 600, 40)), block("line", (0, 50, 600, 80)), block("~", (0, 90, 9, 95), 0.2), picture]
    second = [block("line", (0, 50, 600, 80)), block("another line", (0, 310, 600, 340))]
    both = merged(first, second)
    assert [(each.text, each.order) for each in both] == [("TITLE", 0), ("line", 1), ("", 2), ("another line", 3)]
    assert merged(first, second[:1]) == first


def test_a_second_reading_that_finds_nothing_more_is_not_used() -> None:
    first = [block("twelve of them", (0, 0, 600, 40), 0.880)]
    assert merged(first, [block("twe1ve of them", (0, 0, 600, 40), 0.881)]) == first
