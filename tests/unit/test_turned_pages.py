"""The direction of a page, from its first reading and those that check it."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.document import Block, Word
from serve_app.recognition.engines.grey import GreyPixels
from serve_app.recognition.engines.turned_pages import read_upright

GREY = np.zeros((300, 200), np.uint8)


def reading(text: str, confidence: float) -> list[Block]:
    word = Word(text=text, bbox=(10, 20, 60, 40), confidence=confidence)
    return [Block(label="text", text=text, bbox=word.bbox, order=0, confidence=confidence, words=[word])]


@pytest.mark.parametrize(
    ("first", "turned", "as_it_is", "text", "rotation"),
    [
        (0.9, 0.95, 0.1, "the other", 90),
        (0.9, 0.8, 0.1, "the first", 90),
        (0.4, 0.45, 0.9, "unturned!", 0),
        (0.4, 0.45, 0.3, "the other", 90),
        (0.4, 0.95, 0.9, "the other", 90),
    ],
)
def test_the_surest_reading_counts_and_a_direction_that_gives_nonsense_is_doubted(
    first: float, turned: float, as_it_is: float, text: str, rotation: int
) -> None:
    def read(grey: GreyPixels) -> list[Block]:
        return reading("the other", turned) if grey.shape == (200, 300) else reading("unturned!", as_it_is)

    blocks, found = read_upright(GREY, reading("the first", first), 90, read)
    assert (blocks[0].text, found) == (text, rotation)


def test_an_upright_page_is_not_read_again() -> None:
    def read(grey: GreyPixels) -> list[Block]:
        raise AssertionError("read again")

    first = reading("first", 0.4)
    assert read_upright(GREY, first, 0, read) == (first, 0)
