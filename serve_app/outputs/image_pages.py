"""Pages of a PDF for the pages of an image file: each is its picture, with the text.

A picture keeps the encoding that came. A JPEG is embedded byte for byte, one in a TIFF too, and so are the pixels of a
PNG. All others are encoded without loss.
"""

from __future__ import annotations

import io
from collections.abc import Container, Iterable
from contextlib import suppress

from pikepdf import Pdf
from PIL import Image, ImageChops, ImageStat
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from serve_app.document import Page
from serve_app.errors import CorruptDocument, ServiceError
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.pdf_layer import FONT_NAME, Layer, text_layer
from serve_app.outputs.pdf_picture import Picture, jpeg_picture, lossless_picture, png_picture
from serve_app.outputs.picture_page import add_picture_page
from serve_app.outputs.reading_frame import Matrix, PageFrame
from serve_app.raster.images import DecodedImage, image_errors
from serve_app.raster.jpeg_parts import EOI, IN_PDF, jpeg_parts
from serve_app.raster.metadata import turn_upright, upright_method
from serve_app.raster.page_source import ImageSource, TiffSource, open_image_source
from serve_app.raster.rgb import on_white_palette, to_rgb
from serve_app.raster.tiff_jpeg import jpeg_of_page

UNREAD_MAX_PIXELS = 10**8
"""Pixel limit for the image of a failed page, whose true size is unknown."""

_A4 = (595, 842)
_DEFAULT_DPI = 200  # for an image without a resolution, if its page failed

_ALIKE = 2.0
"""Greatest mean difference of two decodings of one JPEG, of 255. Decoders differ by rounding, and where colours are coarse."""


def add_image_pages(
    result: Pdf,
    data: bytes,
    pages: Iterable[Page],
    font: InvisibleFont,
    *,
    straighten: bool,
    decode_all: bool,
    decode: Container[int],
) -> list[Layer]:
    """Add pages of the image `data` to `result`, each with its picture; return their layers of text.

    Pictures of pages whose position in the result is in `decode`, and all with `decode_all`, are as the decoder gives
    them, in grey or RGB, without loss.
    A page that failed and cannot be decoded is blank. Raises the errors of `open_source`.
    """
    layers: list[Layer] = []
    source: ImageSource | TiffSource | None = None
    for page in pages:
        limit = page.width * page.height or UNREAD_MAX_PIXELS
        try:
            source = source or open_image_source(data, limit)
            frame = _add_page(result, source, page, limit, decode=decode_all or len(layers) in decode)
        except ServiceError:
            if page.error is None:
                raise
            result.add_blank_page(page_size=_A4)
            layers.append(Layer(FONT_NAME, b""))
        else:
            layers.append(text_layer(page, frame, font, FONT_NAME, straighten=straighten))
    return layers


def _add_page(result: Pdf, source: ImageSource | TiffSource, page: Page, max_pixels: int, *, decode: bool) -> PageFrame:
    picture = _picture_of(source, page.number, max_pixels, decode=decode)
    width, height, dpi = page.width, page.height, page.dpi
    if page.error is not None:
        height, width, _ = (decoded := _decoded(source, page.number, max_pixels)).pixels.shape
        dpi = decoded.dpi
    return add_picture_page(result, picture, 72 * width / dpi, 72 * height / dpi)


def _picture_of(source: ImageSource | TiffSource, number: int, max_pixels: int, *, decode: bool) -> Picture:
    """Return the picture of a page. Raises CorruptDocument and TooLarge."""
    if number > source.page_count:
        raise CorruptDocument("The image is damaged: it has fewer pages than have been read.")
    # The decoder knows more of damaged files than their formats allow.
    with suppress(CorruptDocument), image_errors(source.kind):
        if not decode:
            return _as_it_came(source.open_page(number, max_pixels), source.data)
    return lossless_picture(Image.fromarray(_decoded(source, number, max_pixels).pixels))


def _decoded(source: ImageSource | TiffSource, number: int, max_pixels: int) -> DecodedImage:
    return source.render(number, dpi=None, default_dpi=_DEFAULT_DPI, max_pixels=max_pixels)


def _as_it_came(image: ImageFile, data: bytes) -> Picture:
    method = upright_method(image)
    matrix = _matrix(method)
    if isinstance(image, JpegImageFile):
        parts = jpeg_parts(data)
        if parts.kind in IN_PDF and parts.bits == 8:
            whole = data if EOI in data[-len(parts.entropy) - len(EOI) :] else data + EOI
            return jpeg_picture(whole, image, inverted_inks=True).turned(matrix)
    if isinstance(image, PngImageFile) and (picture := png_picture(data)) is not None:
        return picture.turned(matrix)
    jpeg = jpeg_of_page(image, data) if isinstance(image, TiffImageFile) else None
    image.load()
    if jpeg is not None:
        same = JpegImageFile(io.BytesIO(jpeg))
        upright = same if method is None else same.transpose(method)
        # Pillow takes the inks of a JPEG file for inverted, and those of a TIFF not.
        inks = ImageChops.invert(upright) if upright.mode == "CMYK" else upright
        if _are_alike(inks.convert("RGB"), to_rgb(image, data)):
            return jpeg_picture(jpeg, same, inverted_inks=False).turned(matrix)
    return lossless_picture(turn_upright(image, _as_on_paper(image, data)))


def _as_on_paper(image: ImageFile, data: bytes) -> Image.Image:
    """Return the loaded image without transparency, in a mode that `lossless_picture` takes."""
    transparent = "transparency" in image.info
    if image.mode == "P":
        return on_white_palette(image) if transparent else image
    return image if image.mode in ("1", "L", "RGB") and not transparent else to_rgb(image, data)


def _are_alike(first: Image.Image, second: Image.Image) -> bool:
    if first.size != second.size:
        return False
    return max(ImageStat.Stat(ImageChops.difference(first, second)).mean) <= _ALIKE


def _matrix(method: Image.Transpose | None) -> Matrix:
    """Return the matrix that turns PDF's unit square as `method` turns an image."""
    if method is None:
        return (1, 0, 0, 1, 0, 0)
    # The numbered corners of a 2 x 2 image (top left, top right, bottom left, bottom right), turned.
    corners = Image.frombytes("L", (2, 2), bytes(range(4))).transpose(method).tobytes()
    (x, y), (x1, y1), (x2, y2) = ((at % 2, 1 - at // 2) for at in map(corners.index, (2, 3, 0)))
    return (x1 - x, y1 - y, x2 - x, y2 - y, x, y)
