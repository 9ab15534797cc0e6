"""What a file says of its page beside the pixels: which way is up, and its resolution."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

MIN_DPI, MAX_DPI = 50, 1200
"""A file's resolution outside this range is not one of a page."""

LARGEST_PAGE_INCHES = (17, 24)
"""A2 and ANSI C. A file's resolution that makes the page larger is not believed: cameras and editors write 72 or 96 dpi
into whatever they save, and an A4 page of 2480 x 3508 pixels would be 87 x 124 cm, with letters of the wrong size."""

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 274, 282, 283, 296  # EXIF and TIFF tags

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_METADATA_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def turn_upright(source: ImageFile, rgb: Image.Image) -> Image.Image:
    """`rgb` turned as the EXIF data of its source say."""
    if isinstance(source, TiffImageFile):  # Pillow has turned it while loading
        return rgb
    try:
        method = _UPRIGHT[source.getexif()[_ORIENTATION]]
    except _METADATA_ERRORS:  # absent, or damaged, which is no reason to refuse the page
        return rgb
    return rgb.transpose(method)


def file_dpi(image: ImageFile, size: tuple[int, int]) -> int | None:
    """The first resolution in the file that can be that of a page of `size` pixels; None if there is none."""
    short, long = sorted(size)
    for dpi in _resolutions(image):
        fits = short / dpi <= LARGEST_PAGE_INCHES[0] and long / dpi <= LARGEST_PAGE_INCHES[1]
        if fits and MIN_DPI <= dpi <= MAX_DPI:
            return round(dpi)
    return None


def _resolutions(image: ImageFile) -> Iterator[float]:
    """Dots per inch by the format's own field (JFIF, pHYs, TIFF tags, BMP header), then by EXIF; positive numbers.

    Where the two axes differ (fax), the coarser one.
    """
    for read in (_format_resolution, _exif_resolution):
        try:
            dpi = min(read(image))
        except _METADATA_ERRORS:  # as in turn_upright
            continue
        if dpi > 0:
            yield dpi


def _format_resolution(image: ImageFile) -> tuple[float, float]:
    if isinstance(image, JpegImageFile):  # not info["dpi"]: Pillow puts 72 there for EXIF data without a resolution
        per_inch = {1: 1.0, 2: 2.54}[image.info["jfif_unit"]]
        across, down = image.info["jfif_density"]
        return across * per_inch, down * per_inch
    across, down = image.info["dpi"]
    return float(across), float(down)


def _exif_resolution(image: ImageFile) -> tuple[float, float]:
    exif = image.getexif()
    per_inch = {2: 1.0, 3: 2.54}[exif.get(_RESOLUTION_UNIT, 2)]
    return float(exif[_X_RESOLUTION]) * per_inch, float(exif[_Y_RESOLUTION]) * per_inch
