"""Pages with next to nothing on them: one character, a label turned upside down, print of the other side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from samples.make_samples import SAMPLES, draw_page, load_font
from serve_app.recognition.engines import Engine
from tests.support.engines import read_page


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("text", ["7", "42", "Б", "— 17 —"])
def test_a_lone_character_or_number_is_read(engine: Engine, text: str, light: bool) -> None:
    picture = Image.new("RGB", (500, 400), "black" if light else "white")
    ink = "white" if light else "black"
    ImageDraw.Draw(picture).text((200, 150), text, font=load_font("DejaVuSans.ttf", 40), fill=ink)
    page = read_page(engine, np.asarray(picture))
    assert (page.text, page.rotation) == (text, 0)
    left, top, right, bottom = page.blocks[0].bbox
    assert 180 <= left < right <= 400 and 140 <= top < bottom <= 210


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("text", ["Осторожно, стекло", "Deliver to: 14 Harbour Road, Leeds"])
def test_a_label_is_read_in_any_direction(engine: Engine, text: str, quarters: int) -> None:
    label = np.asarray(draw_page(text, size=(900, 200), margin=50).convert("RGB"))
    pixels = np.rot90(label, quarters)  # counter-clockwise
    page = read_page(engine, pixels)
    assert (" ".join(page.text.split()), page.rotation) == (text, -90 * quarters % 360)
    ink = pixels[:, :, 0] < 128
    for left, top, right, bottom in [word.bbox for block in page.blocks for word in block.words]:
        assert ink[top:bottom, left:right].any()
        ink[top:bottom, left:right] = False
    assert not ink.any()


@pytest.mark.parametrize("strength", [0.05, 0.1])
def test_print_of_the_other_side_is_left_out_with_a_warning(engine: Engine, strength: float) -> None:
    other = SAMPLES["page-ru"].draw().crop((0, 0, 1654, 1200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shade = 255 - np.asarray(other.filter(ImageFilter.GaussianBlur(1.5)), np.float64)
    grain = np.random.default_rng(1).normal(0, 1.5, shade.shape)
    pixels = np.clip(255 - shade * strength + grain, 0, 255).astype(np.uint8)
    page = read_page(engine, np.repeat(pixels[:, :, None], 3, axis=2))
    assert page.text == ""
    assert page.degraded and [warning.code for warning in page.warnings] == ["low_confidence_text_dropped"]
