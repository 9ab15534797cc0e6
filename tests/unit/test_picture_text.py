"""Pictures with text on a page with a text layer: found, recognized, and put where they are read."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from serve_app.document import Block, Box, EngineInfo, Page, PageContent, PagePart, PageResult
from serve_app.document.options import RecognitionOptions
from serve_app.errors import RecognitionFailed, ServiceError
from serve_app.pipeline.picture_text import with_pictures
from serve_app.raster.page_source import open_source
from tests.support.handles import SOURCE, Handle, pipeline_of
from tests.support.pdfs import FONT_FILE, stream, text_pdf

CONTRACT = [(72.0, 800.0 - 16 * n, 11.0, f"Строка договора номер {n} о поставке") for n in range(6)]
ENGINE = EngineInfo(name="x", version="1")


def clause() -> Image.Image:
    image = Image.new("L", (400, 200), 250)
    ImageDraw.Draw(image).text((20, 70), "CLAUSE NINE", 20, ImageFont.truetype(FONT_FILE, 40))
    return image


def photograph() -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 200))
    return Image.fromarray(((across + down) / 2).astype(np.uint8))


def pictures(image: Image.Image, place: bytes) -> tuple[Box, ...]:
    """The pictures of a contract, drawn at 72 dpi, with this image at `place`, that may have text."""
    entries = (
        b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode"
    )
    data = text_pdf(
        CONTRACT,
        before=b"q %b cm /I Do Q " % place,
        resources=b"/XObject<</I 10 0 R>>",
        more=[stream(zlib.compress(image.tobytes()), entries % image.size)],
    )
    page = open_source(data, password=None, max_pixels=10**7).text_page(1, dpi=72, default_dpi=72, max_pixels=10**7)
    assert page is not None
    return page.pictures


@pytest.mark.parametrize(
    ("image", "place", "found"),
    [
        (clause(), b"200 0 0 100 100 300", ((100, 442, 300, 542),)),
        (clause(), b"0 200 -100 0 300 300", ((200, 342, 300, 542),)),  # turned
        (photograph(), b"200 0 0 100 100 300", ()),
        (Image.new("L", (400, 200), 250), b"595 0 0 400 0 440", ()),  # paper under the text
        (clause(), b"40 0 0 20 100 300", ()),  # a sign
    ],
    ids=["clause", "turned", "photograph", "paper", "sign"],
)
def test_pictures_of_text_are_told_from_others(image: Image.Image, place: bytes, found: tuple[Box, ...]) -> None:
    assert pictures(image, place) == found


def block(text: str, bbox: Box, confidence: float | None = None) -> Block:
    return Block(label="text", text=text, bbox=bbox, order=0, confidence=confidence)


def result(*blocks: Block, unread: tuple[Box, ...] = ()) -> PageResult:
    text = "\n\n".join(found.text for found in blocks)
    page = Page(number=1, width=600, height=800, dpi=72, text=text, blocks=list(blocks))
    return PageResult(PageContent(page), ENGINE, {}, unread)


LAYER = result(
    *(block("left 1", (10, 10, 290, 100)), block("left 2", (10, 300, 290, 400))),
    *(block("right 1", (310, 10, 590, 100)), block("right 2", (310, 300, 590, 400))),
    unread=((20, 120, 280, 280), (320, 420, 580, 700), (320, 420, 580, 700)),
)


def test_text_of_a_picture_stands_in_its_column() -> None:
    read = result(
        block("in the right picture", (330, 430, 570, 460), 0.9),
        block("in the left picture", (30, 130, 270, 160)),
        block("dust", (30, 170, 60, 180), 0.2),
        block("elsewhere", (10, 720, 200, 740), 0.9),
    )
    page = with_pictures(LAYER, read).page
    order = ["left 1", "in the left picture", "left 2", "right 1", "right 2", "in the right picture"]
    assert [found.text for found in page.blocks] == order == page.text.split("\n\n") == page.markdown.split("\n\n")
    assert [found.order for found in page.blocks] == list(range(6)) and not page.degraded


async def read(recognized: PageResult | ServiceError) -> tuple[PageResult, Handle]:
    rasterizer = Handle(LAYER, "pixels")
    pipeline = pipeline_of(rasterizer, Handle(recognized))
    options = RecognitionOptions()
    (outcome,) = [o async for o in pipeline.pages(SOURCE, [1], engine="x", options=options, dpi=None, text_layer=True)]
    assert isinstance(outcome.result, PageResult)
    return outcome.result, rasterizer


async def test_only_the_pictures_are_recognized() -> None:
    found, rasterizer = await read(result(block("in the left picture", (30, 130, 270, 160))))
    assert "in the left picture" in found.page.text and "right 2" in found.page.text
    part = rasterizer.calls[1][-1]
    assert isinstance(part, PagePart) and part.inside == LAYER.unread_pictures


async def test_pictures_that_could_not_be_recognized_are_a_warning_beside_the_text() -> None:
    found, _ = await read(RecognitionFailed())
    assert found.page.text == LAYER.page.text and found.page.degraded
    assert [warning.code for warning in found.page.warnings] == ["pictures_not_read"]


def test_the_rest_of_a_part_is_white() -> None:
    part = PagePart(inside=((1, 1, 4, 4),), outside=((2, 2, 3, 3),)).of(np.zeros((6, 6, 3), np.uint8))
    assert (part == 0).all(axis=2).sum() == 8 and part[2, 2].tolist() == part[0, 0].tolist() == [255] * 3
