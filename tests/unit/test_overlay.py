"""The overlay: what was found, drawn where it was found."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from serve_app.document import Block, Page, Word
from serve_app.recognition.overlay import label_colour, overlay


def block(label: str = "title", order: int = 0, **fields: object) -> Block:
    return Block.model_validate({"label": label, "text": "", "bbox": (100, 100, 300, 200), "order": order} | fields)


def page_of(*blocks: Block, width: int = 600, height: int = 400) -> Page:
    return Page(number=1, width=width, height=height, dpi=144, blocks=list(blocks))


def white(width: int = 600, height: int = 400) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 255, np.uint8)


def drawn(pixels: npt.NDArray[np.uint8], page: Page) -> npt.NDArray[np.int64]:
    data = overlay(pixels, page)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        return np.asarray(image).astype(np.int64)


def near(image: npt.NDArray[np.int64], x: int, y: int, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(image[y, x] - colour).max() < 60)


def test_a_block_is_outlined_in_the_colour_of_its_label() -> None:
    image = drawn(white(), page_of(block("table")))

    colour = label_colour("table")
    assert all(near(image, x, y, colour) for x, y in ((200, 100), (100, 150), (299, 150), (200, 199)))
    assert near(image, 200, 150, (255, 255, 255))


def test_a_polygon_is_preferred_to_the_box() -> None:
    image = drawn(white(), page_of(block(polygon=[(120, 100), (300, 120), (280, 200), (100, 180)])))

    assert near(image, 110, 140, label_colour("title"))
    assert near(image, 299, 190, (255, 255, 255))


def test_words_are_outlined_faintly() -> None:
    image = drawn(white(), page_of(block(words=[Word(text="слово", bbox=(150, 140, 200, 160))])))

    assert near(image, 175, 140, (150, 150, 150))
    assert near(image, 175, 150, (255, 255, 255))


def test_the_page_shows_through_and_is_not_changed() -> None:
    pixels = white()
    pixels[150:160, 150:160] = (0, 0, 255)
    before = pixels.copy()

    image = drawn(pixels, page_of(block()))

    assert near(image, 155, 155, (0, 0, 255))
    assert np.array_equal(pixels, before)
    pixels.flags.writeable = False
    assert image.shape == drawn(pixels, page_of(block())).shape == (400, 600, 3)


def test_number_and_label_stand_above_the_corner_and_never_outside_the_page() -> None:
    image = drawn(white(), page_of(block()))
    tag = image[80:100, 100:130]
    assert (np.abs(tag - label_colour("title")).max(axis=2) < 60).any()
    assert (tag.min(axis=2) > 200).any()  # letters in white

    for corner in ((0, 0, 50, 20), (580, 390, 600, 400), (-90, -90, -10, -10)):
        image = drawn(white(), page_of(block("a very long label of a block", bbox=corner)))
        on_colour = np.abs(image - label_colour("a very long label of a block")).max(axis=2) < 60
        assert on_colour.sum() > 500


def test_tags_tell_the_order_apart() -> None:
    first, second = (drawn(white(), page_of(block(order=order)))[70:100, 100:200] for order in (0, 1))

    assert (first != second).any()


def test_boxes_are_scaled_to_a_picture_of_another_size() -> None:
    image = drawn(white(300, 200), page_of(block("table")))

    assert near(image, 50, 75, label_colour("table")) and near(image, 100, 99, label_colour("table"))


def test_a_label_in_any_language_and_a_page_without_blocks_are_drawn() -> None:
    assert (drawn(white(), page_of(block("таблица"))) != 255).any()
    assert (drawn(white(), page_of()) == 255).all()
    assert drawn(white(1, 1), page_of(block(bbox=(0, 0, 1, 1)), width=1, height=1)).shape == (1, 1, 3)


@pytest.mark.parametrize("label", ["text", "title", "table", "formula", "image", "таблица"])
def test_white_letters_can_be_read_on_every_colour(label: str) -> None:
    red, green, blue = ((value / 255) ** 2.2 for value in label_colour(label))

    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert 1.05 / (luminance + 0.05) > 3  # WCAG 2, large letters
