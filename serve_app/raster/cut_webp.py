"""Reads the beginning of a WebP image whose end is missing, with the incremental decoder of the libwebp that Pillow uses.

Pillow itself gives nothing of such an image. See https://developers.google.com/speed/webp/docs/api for the functions.
"""

from __future__ import annotations

import ctypes
import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, _webp
from PIL.ImageFile import ImageFile
from PIL.PpmImagePlugin import PpmImageFile

from serve_app.document import RgbPixels
from serve_app.errors import CorruptDocument

_RGBA = 1  # of WEBP_CSP_MODE


def beginning_of_webp(data: bytes) -> ImageFile:
    """Decode as many rows as the file has, on white; the others are white. Returns an image that is not loaded.

    Raises CorruptDocument if the file has no row, or the first frame of an animation only.
    """
    pixels = _decoded_rows(data)
    if pixels is None:
        raise CorruptDocument("The WebP image is damaged or in an unusual encoding, and could not be read.")
    height, width, _ = pixels.shape
    return PpmImageFile(io.BytesIO(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()))


def _decoded_rows(data: bytes) -> RgbPixels | None:
    decoder = _libwebp().WebPINewRGB(_RGBA, None, 0, 0)
    if not decoder:
        raise MemoryError
    try:
        _libwebp().WebPIAppend(decoder, data, len(data))  # "suspended", since there are rows to come
        rows, width, height, stride = (ctypes.c_int() for _ in range(4))
        start = _libwebp().WebPIDecGetRGB(decoder, rows, width, height, stride)
        if not start or rows.value < 1:
            return None
        samples = np.frombuffer(ctypes.string_at(start, stride.value * rows.value), np.uint8)
    finally:
        _libwebp().WebPIDelete(decoder)
    found = Image.fromarray(samples.reshape(rows.value, -1)[:, : 4 * width.value].reshape(rows.value, -1, 4), "RGBA")
    page = Image.new("RGB", (width.value, height.value), "white")
    page.paste(found, mask=found.getchannel("A"))
    return np.asarray(page)


@cache
def _libwebp() -> Any:
    """Return the functions of the library, which Pillow's own module has loaded."""
    library = ctypes.CDLL(_webp.__file__)
    number = ctypes.POINTER(ctypes.c_int)
    for name, result, arguments in (
        ("WebPINewRGB", ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)),
        ("WebPIAppend", ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)),
        ("WebPIDecGetRGB", ctypes.c_void_p, (ctypes.c_void_p, number, number, number, number)),
        ("WebPIDelete", None, (ctypes.c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
