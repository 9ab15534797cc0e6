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

MAX_PIXEL_RATIO = 3
"""Greatest ratio of the two axes that is plausible. Fax has 204 x 98 dots per inch, and 204 x 391."""

SQUARE_WITHIN = 1.02
"""Ratio of the two axes up to which pixels count as square: resolutions are rounded."""

Resolution = tuple[float, float]

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 274, 282, 283, 296  # EXIF and TIFF tags

_UPRIGHT: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)

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
    method = upright_method(source)
    return rgb if method is None else rgb.transpose(method)


def upright_method(source: ImageFile) -> Image.Transpose | None:
    """Return what turns the pixels of `source`, which is opened and not loaded, upright; None if they stand so."""
    return _UPRIGHT.get(_orientation(source))


def file_resolution(image: ImageFile) -> Resolution | None:
    """Return the file's first resolution that is plausible for its page, or None. `image` is opened and not loaded.

    A resolution is (across, down) in dots per inch of the upright image. The two differ where pixels are not square, as
    in faxes.
    """
    is_turned = _orientation(image) in _SIDEWAYS
    # Pillow gives the size of a TIFF upright.
    size = image.size[::-1] if is_turned and not isinstance(image, TiffImageFile) else image.size
    for stored in _resolutions(image):
        across, down = stored[::-1] if is_turned else stored
        if max(across, down) > MAX_PIXEL_RATIO * min(across, down):
            continue
        short, long = sorted((size[0] / across, size[1] / down))
        fits = short <= LARGEST_PAGE_INCHES[0] and long <= LARGEST_PAGE_INCHES[1]
        if fits and min(across, down) >= MIN_DPI and max(across, down) <= MAX_DPI:
            return across, down
    return None


def square_size(size: tuple[int, int], resolution: Resolution | None) -> tuple[int, int]:
    """Return the size at which an image of `size` has square pixels, of the finer of its two resolutions."""
    if resolution is None or max(resolution) <= SQUARE_WITHIN * min(resolution):
        return size
    finest = max(resolution)
    across, down = (max(1, round(side * finest / each)) for side, each in zip(size, resolution, strict=True))
    return across, down


def _resolutions(image: ImageFile) -> Iterator[Resolution]:
    """Yield positive resolutions in dots per inch: the format's field (JFIF, pHYs, TIFF tags, BMP header), then EXIF's."""
    for read in (_format_resolution, _exif_resolution):
        try:
            across, down = read(image)
        except _METADATA_ERRORS:  # as in turn_upright
            continue
        if across > 0 and down > 0:
            yield across, down


def _orientation(image: ImageFile) -> int | None:
    try:
        return int(image.getexif()[_ORIENTATION])
    except _METADATA_ERRORS:  # absent or damaged, which is no reason to refuse the page
        return None


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
