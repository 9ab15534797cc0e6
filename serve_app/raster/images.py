"""Image bytes to RGB pixels, with Pillow, in this process.

The bytes are untrusted: run this only in a process that may crash or hang (see `decoder_client`).
The first bytes decide the file type; its name and MIME type are ignored.
ICC profiles are not applied: they matter for colour proofs, not for recognition, and would add another parser.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from serve_app.document import ErrorInfo
from serve_app.errors import CorruptDocument, EmptyDocument, ServiceError, TooLarge, UnsupportedMediaType
from serve_app.raster.damaged_images import DAMAGED, load_pixels, open_png, open_webp
from serve_app.raster.metadata import file_resolution, square_size, turn_upright
from serve_app.raster.old_style_jpeg import open_tiff
from serve_app.raster.png_chunks import png_size
from serve_app.raster.rgb import to_rgb

# Disables Pillow's limit. `check_size` applies the service's limit before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

MAX_SIDE = 65_535
"""Longest side in pixels, JPEG's own: Pillow keeps a pointer for each row, so 1 x 10^8 pixels would cost 0.8 GB."""

_SUPPORTED = "Send a PDF, or a JPEG, PNG, WebP, GIF, BMP or TIFF image."

HEADER_SEARCH_BYTES = 1024
"""Bytes inspected to detect the file type. PDF readers look this far for the header, since some writers put mail or
printer lines before it."""

_HEADLESS_PDF = re.compile(rb"(?:%[^\r\n]{0,80}[\r\n]+|\s{1,80})?\d{1,9} \d{1,5} obj\b")
"""A PDF whose first line is missing begins with an object, maybe behind a comment."""

_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class DecodedImage:
    """A page as pixels. `warnings` say what could not be drawn.

    `pixels`: RGB, uint8, shape (height, width, 3), C-contiguous, upright, perhaps read-only; `dpi`: dots per inch.
    """

    pixels: npt.NDArray[np.uint8]
    dpi: int
    warnings: tuple[ErrorInfo, ...] = ()


def decode_image(data: bytes, *, max_pixels: int, dpi_hint: int | None, default_dpi: int) -> DecodedImage:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF image. If it has several pages or frames, decode the first.

    Puts transparent images on white, applies the EXIF orientation, scales deeper samples to 8 bits, and makes pixels square.
    An image whose end is missing is read as far as it goes, with the warning `damaged_image`.
    `dpi` is the hint, else the file's resolution if it is plausible (see `metadata.LARGEST_PAGE_INCHES`), else the default.

    Raises EmptyDocument, UnsupportedMediaType, CorruptDocument, and TooLarge if the header gives more than `max_pixels`
    or the process runs out of memory.
    """
    if not data:
        raise EmptyDocument()
    kind = sniff(data)
    if kind == "PDF":
        raise UnsupportedMediaType("This is a PDF, not an image.")
    with image_errors(kind):
        image = open_image(kind, data, max_pixels)
        return decode_opened(image, data, max_pixels=max_pixels, dpi_hint=dpi_hint, default_dpi=default_dpi)


def decode_opened(
    image: ImageFile, data: bytes, *, max_pixels: int, dpi_hint: int | None, default_dpi: int
) -> DecodedImage:
    """Decode an image opened by `open_image`, like `decode_image`. Call it within `image_errors`."""
    resolution = file_resolution(image)
    image, is_damaged = load_pixels(image, data)
    upright = turn_upright(image, to_rgb(image, data))
    size = square_size(upright.size, resolution)
    if size != upright.size:
        check_size(size, max_pixels)
        upright = upright.resize(size, Image.Resampling.BICUBIC)
    dpi = dpi_hint or (round(max(resolution)) if resolution is not None else default_dpi)
    return DecodedImage(np.asarray(upright), dpi, (DAMAGED,) if is_damaged else ())


@contextmanager
def image_errors(kind: str) -> Iterator[None]:
    """Turn Pillow's exceptions on an image of `kind` into CorruptDocument or TooLarge."""
    try:
        yield
    except ServiceError:
        raise
    except MemoryError as error:
        raise TooLarge("The image needs more memory than this service allows.") from error
    except Exception as error:
        # On damaged data, Pillow's plugins raise nearly any exception, none of them documented.
        raise CorruptDocument(
            f"The {kind} image is damaged or in an unusual encoding, and could not be read."
        ) from error


def sniff(data: bytes) -> str:
    """Detect the file type from its first bytes: "PDF", or a name from the list in `decode_image`.

    Raises UnsupportedMediaType for any other type.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # Many texts begin with "BM", so the header size is checked as well.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if b"%PDF-" in data[:HEADER_SEARCH_BYTES] or _HEADLESS_PDF.match(data):
        return "PDF"
    raise UnsupportedMediaType(f"This kind of file is not supported. {_SUPPORTED}")


def open_image(kind: str, data: bytes, max_pixels: int) -> ImageFile:
    """Parse the header and check the size, without decoding. Only Pillow's plugin for `kind` sees the bytes.

    Call it within `image_errors`. Raises TooLarge.
    """
    stream = io.BytesIO(data)
    image: ImageFile
    match kind:
        case "JPEG":
            image = JpegImageFile(stream)
        case "PNG":
            check_size(png_size(data), max_pixels)
            image = open_png(data)
        case "WebP":
            check_size(_webp_size(data), max_pixels)  # its decoder allocates the canvas when it is opened
            image = open_webp(data)
        case "GIF":
            image = GifImageFile(stream)
        case "BMP":
            image = BmpImageFile(stream)
        case _:
            image = open_tiff(stream)
    check_size(image.size, max_pixels)
    return image


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise TooLarge for an image of more pixels than `max_pixels`, or with a side over MAX_SIDE."""
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(
            f"The image has {width} x {height} pixels ({width * height / 1e6:.1f} megapixels);"
            f" the limit is {max_pixels / 1e6:g} megapixels."
        )
    if max(size) > MAX_SIDE:
        raise TooLarge(f"The image has {width} x {height} pixels; no side may be longer than {MAX_SIDE}.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the canvas size from the header: https://developers.google.com/speed/webp/docs/riff_container."""
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
