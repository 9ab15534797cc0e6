"""Reads images whose end is missing or damaged as far as they go, as viewers do."""

from __future__ import annotations

import io

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serve_app.document.warnings import WarningCode, warning
from serve_app.errors import CorruptDocument
from serve_app.raster.cut_webp import beginning_of_webp
from serve_app.raster.png_chunks import prepare_png

DAMAGED = warning(WarningCode.DAMAGED_IMAGE, "Part of the image is missing or damaged; only the rest could be read.")

_END_OF_JPEG = b"\xff\xd9"
IS_DAMAGED = "is_damaged"  # a key in Pillow's `info`: the image was damaged before it was decoded


def open_png(data: bytes) -> PngImageFile:
    """Open a PNG without its metadata. Raises CorruptDocument."""
    return _open_prepared(data, check_pixels=False)


def open_webp(data: bytes) -> ImageFile.ImageFile:
    """Open a WebP, or as much of it as there is. Raises CorruptDocument."""
    try:
        return WebPImageFile(io.BytesIO(data))
    except (OSError, SyntaxError):
        image = beginning_of_webp(data)
        image.info[IS_DAMAGED] = True
        return image


def load_pixels(image: ImageFile.ImageFile, data: bytes) -> tuple[ImageFile.ImageFile, bool]:
    """Decode an opened image of the file `data`; returns it, or another one of the same file, and whether it is damaged.

    Missing pixels are white, or what the format makes of them. Raises what Pillow raises if nothing can be read.
    """
    try:
        image.load()
        return image, bool(image.info.get(IS_DAMAGED))
    except MemoryError:
        raise
    except Exception:  # on damaged data, Pillow raises nearly any exception
        if isinstance(image, JpegImageFile):
            rest: ImageFile.ImageFile = JpegImageFile(io.BytesIO(data + _END_OF_JPEG))
            rest.load()
        elif isinstance(image, PngImageFile):
            rest = _open_prepared(data, check_pixels=True)
            rest.load()
        elif isinstance(image, WebPImageFile):
            rest = beginning_of_webp(data)
            rest.load()
        elif isinstance(image, TiffImageFile | BmpImageFile | GifImageFile):
            rest = _load_on_white(image)
        else:
            raise
    if _shows_nothing(rest):
        raise CorruptDocument("The image is damaged, and nothing of it can be seen.")
    return rest, True


def _open_prepared(data: bytes, *, check_pixels: bool) -> PngImageFile:
    prepared = prepare_png(data, check_pixels=check_pixels)
    image = PngImageFile(io.BytesIO(prepared.data))
    image.info[IS_DAMAGED] = prepared.is_damaged
    return image


def _load_on_white(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """Decode an image again, over white pixels: whatever cannot be decoded stays white."""
    stream = image.fp
    assert stream is not None
    stream.seek(0)
    again = type(image)(stream)
    if again.mode in _WHITE:
        again.im = Image.new(again.mode, again.size, _WHITE[again.mode]).im
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        again.load()
    except OSError:
        if again.tile or again._im is None:  # it failed before it decoded
            raise
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return again


_WHITE: dict[str, int | tuple[int, ...]] = {
    "1": 255,
    "L": 255,
    "RGB": (255, 255, 255),
    "RGBA": (255, 255, 255, 255),
    "CMYK": (0, 0, 0, 0),
    "YCbCr": (255, 128, 128),
}
"""White in the modes that Pillow can fill. In others, missing pixels are 0."""


def _shows_nothing(image: ImageFile.ImageFile) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(lowest == highest for lowest, highest in bands)
