"""A page is turned level, and what was read on it is given on the page as it was sent."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.document import Block, Box, RgbPixels, Word
from serve_app.recognition.engines.straightening import straighten

PAPER = (200, 190, 170)
SPOT: Box = (140, 90, 170, 110)


def page_with_a_spot() -> RgbPixels:
    pixels = np.full((300, 400, 3), PAPER, np.uint8)
    left, top, right, bottom = SPOT
    pixels[top:bottom, left:right] = 0
    return pixels


def box_of_ink(pixels: RgbPixels) -> Box:
    rows, columns = np.nonzero(pixels[:, :, 0] < 100)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def word_at(box: Box) -> Block:
    return Block(label="text", text="a", bbox=box, order=0, words=[Word(text="a", bbox=box)])


def test_a_page_without_skew_is_the_same_array_and_has_no_polygons() -> None:
    pixels = page_with_a_spot()
    straight = straighten(pixels, 0.0, max_side=1000)
    blocks = [word_at(SPOT)]
    assert straight.pixels is pixels and straight.skew == 0
    assert straight.as_sent(blocks, 90) == blocks and blocks[0].polygon is None


@pytest.mark.parametrize("skew", [-10.0, -0.5, 3.0, 8.0])
def test_what_is_found_on_the_straight_page_is_given_where_it_was_sent(skew: float) -> None:
    straight = straighten(page_with_a_spot(), skew, max_side=1000)
    found = box_of_ink(straight.pixels)
    (block,) = straight.as_sent([word_at(found)], 0)
    (word,) = block.words
    assert block.polygon == word.polygon and block.bbox == word.bbox
    corners = np.asarray(word.polygon)
    assert np.abs(corners.mean(axis=0) - (155, 100)).max() < 1
    left, top, right, bottom = word.bbox
    assert left <= SPOT[0] and top <= SPOT[1] and right >= SPOT[2] and bottom >= SPOT[3]
    assert np.abs(np.subtract(word.bbox, SPOT)).max() <= 14
    assert np.degrees(np.arctan2(*(corners[1] - corners[0])[::-1])) == pytest.approx(skew, abs=0.1)


def test_nothing_is_cut_off_and_new_corners_are_like_the_edges_beside_them() -> None:
    pixels = page_with_a_spot()
    pixels[:, 200:] = pixels[:, 200:] // 2  # a shadow
    pixels[:4, :4] = pixels[:4, -4:] = pixels[-4:, :4] = pixels[-4:, -4:] = 0
    straight = straighten(pixels, 7.0, max_side=1000)
    dark = (straight.pixels[:, :, 0] < 80).sum()
    assert dark == pytest.approx((pixels[:, :, 0] < 80).sum(), rel=0.05)
    for corner, light in ((straight.pixels[0, 0], 1), (straight.pixels[-1, 0], 1), (straight.pixels[-1, -1], 0.5)):
        assert np.abs(corner - np.multiply(PAPER, light)).max() < 12


@pytest.mark.parametrize(
    ("rotation", "first", "second"),
    [
        (0, (140, 90), (170, 90)),
        (90, (170, 90), (170, 110)),
        (180, (170, 110), (140, 110)),
        (270, (140, 110), (140, 90)),
    ],
)
def test_a_polygon_starts_where_the_words_top_edge_starts(
    rotation: int, first: tuple[int, int], second: tuple[int, int]
) -> None:
    straight = straighten(page_with_a_spot(), 2.0, max_side=1000)
    polygon = straight.polygon(box_of_ink(straight.pixels), rotation)
    assert len(polygon) == 4
    assert np.abs(np.subtract(polygon[:2], [first, second])).max() <= 3


def test_boxes_end_at_the_edges_of_the_page() -> None:
    straight = straighten(page_with_a_spot(), 9.0, max_side=1000)
    height, width = straight.pixels.shape[:2]
    assert straight.box((0, 0, width, height)) == (0, 0, 400, 300)
    left, top, right, bottom = straight.box((0, 0, 4, 4))
    assert 0 <= left <= right <= 400 and top == bottom == 0


@pytest.mark.parametrize(("shape", "max_side"), [((300, 400), 410), ((3000, 100), 32_767)])
def test_a_page_that_would_become_too_large_stays_as_it_is(shape: tuple[int, int], max_side: int) -> None:
    pixels = np.full((*shape, 3), 255, np.uint8)
    straight = straighten(pixels, 8.0, max_side=max_side)
    assert straight.pixels is pixels and straight.skew == 0
