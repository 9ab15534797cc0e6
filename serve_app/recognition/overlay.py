"""Draws recognized blocks and words over the picture of a page."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from serve_app.document import Block, Box, Figure, Page, Polygon, RgbPixels
from serve_app.document.figures import OVERLAYS, PICTURES

JPEG_QUALITY = 85
MAX_SIDE = 4000
"""Longest side of a picture in pixels. That is enough to look at; a large page would take a hundred megabytes."""

_PALETTE = (
    *((0xD6, 0x27, 0x28), (0x1F, 0x77, 0xB4), (0x2C, 0xA0, 0x2C), (0x94, 0x67, 0xBD), (0xC4, 0x5A, 0x00)),
    *((0xC2, 0x18, 0x7A), (0x00, 0x7C, 0x89), (0x8C, 0x56, 0x4B), (0x5B, 0x6E, 0x00), (0x3F, 0x51, 0xB5)),
)
"""Colours dark enough to stand out on white and to carry white letters."""

_FIXED = {"text": 1}  # the most common label always gets the same quiet blue

_WORD_COLOUR = (150, 150, 150)

# Fractions of the page's longer side, so a page looks the same at any resolution, and minimums in pixels.
_LINE, _MIN_LINE = 1 / 1000, 1
_LETTERS, _MIN_LETTERS = 1 / 90, 10

_Colour = tuple[int, int, int]


def overlay_figure(pixels: RgbPixels, page: Page, number: int) -> Figure:
    """Return the overlay of page `number` as a figure."""
    return Figure(f"{OVERLAYS}page-{number}.jpg", overlay(pixels, page))


def picture_figure(pixels: RgbPixels, number: int) -> Figure:
    """Return the picture of page `number` as a figure, scaled down to MAX_SIDE."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return Figure(f"{PICTURES}page-{number}.jpg", stream.getvalue())


def overlay(pixels: RgbPixels, page: Page) -> bytes:
    """Return a JPEG of the page, with blocks outlined in the colour of their label and words in grey.

    `pixels`: RGB, uint8, shape (height, width, 3), as recognized; not modified. Each block carries its position in the
    reading order, from 1, and its label. Boxes are scaled if `pixels` differ in size from the page.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    draw = ImageDraw.Draw(image)
    across = image.width / page.width if page.width else 1
    down = image.height / page.height if page.height else 1
    longer = max(image.size)
    line = max(_MIN_LINE, round(longer * _LINE))
    font = ImageFont.load_default(max(_MIN_LETTERS, round(longer * _LETTERS)))
    blocks = sorted(page.blocks, key=lambda block: block.order)
    for block in blocks:
        for word in block.words:
            _outline(draw, _corners(word.bbox, word.polygon, across, down), _WORD_COLOUR, 1)
    for block in blocks:
        _outline(draw, _corners(block.bbox, block.polygon, across, down), label_colour(block.label), line)
    for block in blocks:  # drawn last, so that no outline crosses them
        _tag(draw, block, across, down, font)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)  # subsampling would blur thin coloured lines
    return encoded.getvalue()


def label_colour(label: str) -> _Colour:
    """Return the colour of a label, which is the same in every process and on every page."""
    return _PALETTE[_FIXED.get(label, zlib.crc32(label.encode("utf-8", "replace")) % len(_PALETTE))]


def _corners(box: Box, polygon: Polygon | None, across: float, down: float) -> Polygon:
    """Return the corners of a polygon, if it has an area, or else of the box; scaled."""
    if polygon and len(polygon) > 2:
        return [(x * across, y * down) for x, y in polygon]
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across - 1, box[3] * down - 1
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _outline(draw: ImageDraw.ImageDraw, corners: Polygon, colour: _Colour, width: int) -> None:
    draw.line([*corners, corners[0]], fill=colour, width=width, joint="curve")


def _tag(
    draw: ImageDraw.ImageDraw,
    block: Block,
    across: float,
    down: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw the number and label in white on the block's colour, above its corner but always inside the page."""
    # The built-in font has Latin letters only.
    text = f"{block.order + 1} {block.label}".encode("ascii", "replace").decode()
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    padding = max(1, (bottom - top) / 4)
    width, height = right - left + 2 * padding, bottom - top + 2 * padding
    page_width, page_height = draw.im.size
    x = max(0, min(block.bbox[0] * across, page_width - width))
    y = max(0, min(block.bbox[1] * down - height, page_height - height))
    draw.rectangle((x, y, x + width, y + height), fill=label_colour(block.label))
    draw.text((x + padding - left, y + padding - top), text, fill="white", font=font)
