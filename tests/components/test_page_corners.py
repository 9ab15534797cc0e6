"""A sheet photographed on a table is found by its corners and flattened; whatever is in doubt stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from serve_app.document import Block, RgbPixels, Word
from serve_app.recognition.engines.page_corners import Flatten, even_light, find_corners, flatten

TABLE, SHADE = (96, 66, 45), 0.35
SIZE = (1000, 1300)
IN_PERSPECTIVE = [(160.0, 120.0), (830.0, 90.0), (930.0, 1200.0), (70.0, 1150.0)]
PARALLEL = [(100.0, 100.0), (850.0, 100.0), (850.0, 1200.0), (100.0, 1200.0)]


def photograph(
    corners: list[tuple[float, float]], *, table: tuple[int, int, int] = TABLE, is_shaded: bool = False
) -> RgbPixels:
    """A sheet with dark lines whose corners lie at `corners`, on a grained table."""
    rows = []
    for (x, y), (u, v) in zip(corners, [(0, 0), (700, 0), (700, 1000), (0, 1000)], strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    values = [0, 0, 700, 0, 700, 1000, 0, 1000]
    sheet = np.full((1000, 700, 4), 255, np.uint8)
    for top in range(100, 900, 40):
        sheet[top : top + 12, 80:620:3, :3] = 30
    picture = Image.fromarray(sheet).transform(
        SIZE, Image.Transform.PERSPECTIVE, np.linalg.solve(rows, values).tolist(), Image.Resampling.BICUBIC
    )
    grain = np.random.default_rng(5).normal(0, 6, (SIZE[1], SIZE[0], 1))
    photo = Image.fromarray((np.full((SIZE[1], SIZE[0], 3), table) + grain).clip(0, 255).astype(np.uint8))
    photo.paste(picture, mask=picture.getchannel("A"))
    light = np.ones((SIZE[1], 1, 1))
    if is_shaded:
        light[400:] = SHADE
    return np.ascontiguousarray((np.asarray(photo) * light).astype(np.uint8))


def test_the_four_corners_of_a_sheet_are_found() -> None:
    corners = find_corners(photograph(IN_PERSPECTIVE), min_perspective=1)
    assert corners is not None
    assert np.abs(corners - IN_PERSPECTIVE).max() < 6


@pytest.mark.parametrize(
    ("photo", "mode"),
    [
        (lambda: photograph(IN_PERSPECTIVE), "false"),
        (lambda: photograph(PARALLEL), "auto"),  # a scan with a dark margin
        (lambda: photograph(IN_PERSPECTIVE, table=(245, 245, 245)), "true"),  # white on white
        (lambda: photograph([(-60, 120), (830, 90), (930, 1200), (70, 1150)]), "true"),  # a corner is outside
        (lambda: photograph([(400, 500), (560, 490), (580, 700), (390, 690)]), "true"),  # a label
        (lambda: np.full((1300, 1000, 3), 255, np.uint8), "true"),
        (lambda: np.zeros((1300, 1000, 3), np.uint8), "true"),
        (lambda: np.random.default_rng(1).integers(0, 256, (1300, 1000, 3), dtype=np.uint8), "true"),
        (lambda: photograph(IN_PERSPECTIVE)[:100], "true"),
        (lambda: photograph(IN_PERSPECTIVE, is_shaded=True), "true"),  # paper as dark as the table in the light
    ],
    ids=["off", "parallel", "white table", "corner outside", "label", "white", "black", "noise", "strip", "shaded"],
)
def test_what_is_no_clear_sheet_in_perspective_stays_as_it_is(photo: Callable[[], RgbPixels], mode: Flatten) -> None:
    assert flatten(photo(), mode, max_side=32_767) is None


def test_two_sheets_are_not_taken_for_one() -> None:
    photo = photograph([(60, 120), (440, 100), (450, 1200), (50, 1150)])
    photo[200:1200, 560:920] = 250
    assert flatten(photo, "true", max_side=32_767) is None


def test_a_sheet_with_parallel_edges_is_cut_out_on_request() -> None:
    flat = flatten(photograph(PARALLEL), "true", max_side=32_767)
    assert flat is not None
    assert np.abs(np.subtract(flat.pixels.shape, (1100, 750, 3))).max() <= 8
    assert flat.skew == pytest.approx(0, abs=0.3)


def test_boxes_come_back_on_the_photograph() -> None:
    flat = flatten(photograph(IN_PERSPECTIVE), "auto", max_side=32_767)
    assert flat is not None
    height, width = flat.pixels.shape[:2]
    word = Word(text="w", bbox=(0, 0, width // 2, height // 2))
    block = Block(label="text", text="w", bbox=(0, 0, width, height), order=0, words=[word])
    (sent,) = flat.as_sent([block], 0)
    assert sent.polygon is not None and sent.words[0].polygon is not None
    assert np.abs(np.subtract(sent.polygon, IN_PERSPECTIVE)).max() < 6
    assert np.abs(np.subtract(sent.bbox, (70, 90, 930, 1200))).max() < 7
    (turned,) = flat.as_sent([block], 90)
    assert turned.polygon is not None
    assert turned.polygon[0] == sent.polygon[1]  # the text begins at the top right


def test_paper_in_a_shadow_becomes_as_white_as_in_the_light() -> None:
    page = np.full((900, 600, 3), 230, np.uint8)
    page[100:110, 50:550:4] = 20
    page[500:] = (page[500:] * 0.4).astype(np.uint8)
    lit = even_light(page)
    assert np.percentile(lit[:450], 50) >= 250 and np.percentile(lit[560:], 50) >= 250
    assert lit[104, 50].max() < 40
