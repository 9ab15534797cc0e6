"""Reads TIFF pages with JPEG of the old style, as copiers and fax servers of the nineties wrote it.

Pillow takes all of it for colour, so it refuses grey, and libtiff scrambles strips of big-endian files. So the pieces are joined to a JPEG file,
which is decoded instead.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from serve_app.raster.damaged_images import IS_DAMAGED
from serve_app.raster.tiff_jpeg import is_cut, is_old_style, jpeg_of_page

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF tag and its value
_JPEG_ERRORS = (LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error)


def open_tiff(stream: io.BytesIO) -> TiffImageFile:
    """Open the first page of a TIFF without decoding it."""
    image = TiffImageFile(stream)
    if is_old_style(image):
        with suppress(*_JPEG_ERRORS):  # libtiff then reads what it can
            data = stream.getvalue()
            jpeg = jpeg_of_page(image, data)
            if jpeg is not None:
                _decode_from(image, jpeg)
                image.info[IS_DAMAGED] = is_cut(image, data)
    return image


def _decode_from(image: TiffImageFile, jpeg: bytes) -> None:
    """Make `image` decode its pixels from `jpeg`; its tags and their orientation stay its own."""
    same = JpegImageFile(io.BytesIO(jpeg))
    if same.mode not in ("L", "RGB"):
        return
    image.getexif()  # keeps the TIFF's stream, for its metadata
    tags: Any = image.tag_v2
    inverted = same.mode == "L" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    image.fp, image.use_load_libtiff, image._mode = io.BytesIO(jpeg), False, same.mode
    image.tile = [tile._replace(args=("L;I", "")) if inverted else tile for tile in same.tile]
