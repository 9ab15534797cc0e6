"""Orientation and resolution from a file's metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

MIN_DPI, MAX_DPI = 50, 1200
"""Range of plausible page resolutions. Others in a file are ignored."""

LARGEST_PAGE_INCHES = (17, 24)
"""A2 and ANSI C. A resolution that makes the page larger is ignored: cameras and editors write 72 or 96 dpi into every
file, and an A4 page of 2480 x 3508 pixels would be 87 x 124 cm, with letters of the wrong size."""

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
    """Apply the EXIF orientation of `source` to `rgb`."""
    if isinstance(source, TiffImageFile):  # Pillow applied it while loading
        return rgb
    try:
        method = _UPRIGHT[source.getexif()[_ORIENTATION]]
    except _METADATA_ERRORS:  # absent or damaged, which is no reason to refuse the page
        return rgb
    return rgb.transpose(method)


def file_dpi(image: ImageFile, size: tuple[int, int]) -> int | None:
    """Return the file's first resolution that is plausible for a page of `size` pixels, or None."""
    short, long = sorted(size)
    for dpi in _resolutions(image):
        fits = short / dpi <= LARGEST_PAGE_INCHES[0] and long / dpi <= LARGEST_PAGE_INCHES[1]
        if fits and MIN_DPI <= dpi <= MAX_DPI:
            return round(dpi)
    return None


def _resolutions(image: ImageFile) -> Iterator[float]:
    """Yield positive resolutions in dots per inch: the format's field (JFIF, pHYs, TIFF tags, BMP header), then EXIF's.

    If the two axes differ (fax), yield the lower one.
    """
    for read in (_format_resolution, _exif_resolution):
        try:
            dpi = min(read(image))
        except _METADATA_ERRORS:  # as in turn_upright
            continue
        if dpi > 0:
            yield dpi


def _format_resolution(image: ImageFile) -> tuple[float, float]:
    if isinstance(image, JpegImageFile):  # info["dpi"] is 72 for EXIF data without a resolution
        per_inch = {1: 1.0, 2: 2.54}[image.info["jfif_unit"]]
        across, down = image.info["jfif_density"]
        return across * per_inch, down * per_inch
    across, down = image.info["dpi"]
    return float(across), float(down)


def _exif_resolution(image: ImageFile) -> tuple[float, float]:
    exif = image.getexif()
    per_inch = {2: 1.0, 3: 2.54}[exif.get(_RESOLUTION_UNIT, 2)]
    return float(exif[_X_RESOLUTION]) * per_inch, float(exif[_Y_RESOLUTION]) * per_inch
