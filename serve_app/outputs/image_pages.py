"""Makes a PDF page of each page of an image, with a layer of text. A JPEG is embedded byte for byte, other images without loss."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf
from PIL import Image

from serve_app.document import Page
from serve_app.errors import CorruptDocument, ServiceError
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.invisible_text import text_content
from serve_app.outputs.pdf_layer import FONT_NAME, Layer, compress
from serve_app.outputs.reading_frame import Matrix, PageFrame, pdf_number
from serve_app.raster.images import image_errors, open_image
from serve_app.raster.metadata import file_resolution, square_size, turn_upright
from serve_app.raster.page_source import PageSource, open_source

MAX_PAGE_POINTS = 14_400
"""Longest side of a page that PDF viewers accept. Larger images are scaled to it."""

UNREAD_MAX_PIXELS = 10**8
"""Pixel limit for the image of a failed page, whose true size is unknown."""

_A4 = (595, 842)
_DEFAULT_DPI = 200  # for an image without a resolution, if its page failed


def add_image_pages(result: Pdf, kind: str, data: bytes, pages: Iterable[Page], font: InvisibleFont) -> list[Layer]:
    layers = []
    source: PageSource | None = None
    for page in pages:
        limit = page.width * page.height or UNREAD_MAX_PIXELS
        try:
            if kind == "JPEG":
                picture = _embed_jpeg(result, data, limit)
            else:
                source = source or open_source(data, password=None, max_pixels=limit)
                picture = _embed_pixels(result, source, page.number, limit)
        except ServiceError:
            if page.error is None:
                raise
            picture = None
        layers.append((FONT_NAME, compress(_draw(result, picture, page, font))))
    return layers


@dataclass(frozen=True)
class _Picture:
    """An image in the PDF. PDF draws images on the unit square; `matrix` turns that square so that the image is upright."""

    stream: pikepdf.Object
    width: int  # upright and with square pixels, as height
    height: int
    dpi: int
    matrix: Matrix = (1, 0, 0, 1, 0, 0)


def _draw(result: Pdf, picture: _Picture | None, page: Page, font: InvisibleFont) -> bytes:
    """Add the page with its picture; returns the content stream of its text."""
    if picture is None:
        result.add_blank_page(page_size=_A4)
        return b""
    scale = min(72 / (page.dpi or picture.dpi), MAX_PAGE_POINTS / max(picture.width, picture.height))
    width, height = picture.width * scale, picture.height * scale
    leaf = result.add_blank_page(page_size=(width, height))
    leaf.obj.Resources = Dictionary(XObject=Dictionary(Picture=picture.stream))
    scaling, turning = (" ".join(map(pdf_number, matrix)) for matrix in ((width, 0, 0, height, 0, 0), picture.matrix))
    leaf.obj.Contents = result.make_stream(f"q {scaling} cm {turning} cm /Picture Do Q\n".encode())
    return text_content(page, PageFrame(0, 0, width, height, 0), font, FONT_NAME)


def _embed_jpeg(result: Pdf, data: bytes, max_pixels: int) -> _Picture:
    """Embed the file unchanged."""
    with image_errors("JPEG"):
        image = open_image("JPEG", data, max_pixels)
        # The numbered corners of a 2 x 2 image (top left, top right, bottom left, bottom right), turned as this image is.
        corners = turn_upright(image, Image.frombytes("L", (2, 2), bytes(range(4)))).tobytes()
        (x, y), (x1, y1), (x2, y2) = ((at % 2, 1 - at // 2) for at in map(corners.index, (2, 3, 0)))
        turned = x1 == x
        width, height = image.size[::-1] if turned else image.size
        resolution = file_resolution(image)
        width, height = square_size((width, height), resolution)
        dpi = _DEFAULT_DPI if resolution is None else round(max(resolution))
        channels = len(image.getbands())
    stream = result.make_stream(
        data,
        **_image_entries(*image.size, channels, 8),
        Filter=Name.DCTDecode,
        # JPEG files have inverted CMYK, as Adobe introduced it. The rasterizer reads them as inverted too.
        **({"Decode": Array([1, 0] * 4)} if channels == 4 else {}),
    )
    return _Picture(stream, width, height, dpi, (x1 - x, y1 - y, x2 - x, y2 - y, x, y))


def _embed_pixels(result: Pdf, source: PageSource, number: int, max_pixels: int) -> _Picture:
    """Embed the pixels that were recognized, in the fewest channels and bits that lose nothing."""
    if number > source.page_count:
        raise CorruptDocument("The image is damaged: it has fewer pages than have been read.")
    image = source.render(number, dpi=None, default_dpi=_DEFAULT_DPI, max_pixels=max_pixels)
    samples, channels, bits = image.pixels, 3, 8
    if np.array_equal(samples[..., 0], samples[..., 1]) and np.array_equal(samples[..., 0], samples[..., 2]):
        samples, channels = np.ascontiguousarray(samples[..., 0]), 1
        if np.all((samples == 0) | (samples == 255)):
            samples, bits = np.packbits(samples > 0, axis=1), 1
    height, width, _ = image.pixels.shape
    stream = result.make_stream(
        zlib.compress(samples.data), **_image_entries(width, height, channels, bits), Filter=Name.FlateDecode
    )
    return _Picture(stream, width, height, image.dpi)


def _image_entries(width: int, height: int, channels: int, bits: int) -> dict[str, Any]:
    return {
        "Type": Name.XObject,
        "Subtype": Name.Image,
        "Width": width,
        "Height": height,
        "ColorSpace": {1: Name.DeviceGray, 3: Name.DeviceRGB, 4: Name.DeviceCMYK}[channels],
        "BitsPerComponent": bits,
    }
