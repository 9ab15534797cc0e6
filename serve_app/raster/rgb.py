"""Converts all of Pillow's pixel formats to RGB as they look on paper."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def to_rgb(image: ImageFile, data: bytes) -> Image.Image:
    """Convert a loaded image to mode RGB. `data` is its file."""
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_32_bits(image)
    if image.mode == "LAB":
        lab_to_rgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        converted = ImageCms.applyTransform(image, lab_to_rgb)
        assert converted is not None  # None only for in-place conversion
        return converted
    if image.mode in ("LA", "RGBA"):
        return _on_white(image)
    if image.mode == "La":
        return _on_white(image.convert("LA"))
    if image.mode in ("PA", "RGBa"):
        return _on_white(image.convert("RGBA"))
    key = image.info.get("transparency")
    if key is None:
        return image if image.mode == "RGB" else image.convert("RGB")  # 1, L, P, CMYK, YCbCr
    if image.mode == "P":
        return _on_white(image.convert("RGBA"))
    return _without_key_colour(image, key, png_depth=data[24] if isinstance(image, PngImageFile) else 8)


def on_white_palette(image: Image.Image) -> Image.Image:
    """Put an image of mode P with transparent colours on white."""
    opaque = image.copy()
    opaque.apply_transparency()
    colours = np.asarray(opaque.getpalette("RGBA"), np.float32).reshape(-1, 4)
    alpha = colours[:, 3:] / 255
    opaque.putpalette(np.rint(colours[:, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8).tobytes())
    return opaque


def _on_white(image: Image.Image) -> Image.Image:
    """Put LA or RGBA on white, whatever the colour of transparent pixels."""
    alpha = image.getchannel("A")
    lowest, highest = alpha.getextrema()
    # Some BMP and TIFF writers fill an unused fourth channel with zeros.
    if lowest == 255 or (highest == 0 and isinstance(image, BmpImageFile | TiffImageFile)):
        return image.convert("RGB")
    page = Image.new("RGB", image.size, "white")
    page.paste(image.convert("RGB"), mask=alpha)
    return page


def _without_key_colour(image: Image.Image, key: int | tuple[int, int, int], png_depth: int) -> Image.Image:
    """Turn the transparent key colour of a mode 1, L or RGB image to white.

    PNG gives the key colour at the file's bit depth; Pillow gives pixels at 8 bits.
    """
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> (png_depth - 8) for value in key)
        return _on_white(image.convert("RGBA"))
    if image.mode == "L" and png_depth < 8:
        key = key * 255 // (2**png_depth - 1)
    return image.convert("L").point([255 if value == key else value for value in range(256)]).convert("RGB")


def _from_16_bits(image: ImageFile) -> Image.Image:
    """Scale grey of up to 16 bits by the range of the format, not by that of the pixels."""
    white, inverted = 65_535, False
    if isinstance(image, TiffImageFile):
        white = 2 ** int(image.tag_v2[_BITS_PER_SAMPLE][0]) - 1
        inverted = image.tag_v2.get(_PHOTOMETRIC) == 0
    to_8_bits = [min((value * 255 + white // 2) // white, 255) for value in range(65_536)]
    if inverted:
        to_8_bits = [255 - value for value in to_8_bits]
    key = image.info.get("transparency")
    if key is not None:
        to_8_bits[key] = 255
    return image.convert("I").point(to_8_bits, "L").convert("RGB")


def _from_32_bits(image: ImageFile) -> Image.Image:
    """Stretch integer or float grey, which has no standard range, from its lowest to its highest value."""
    values = np.asarray(image).astype(np.float32)
    finite = np.isfinite(values)
    low = float(np.min(values, where=finite, initial=np.inf))
    high = float(np.max(values, where=finite, initial=-np.inf))
    with np.errstate(over="ignore", invalid="ignore"):
        values -= low
        values *= 255 / (high - low) if high > low else 0
    np.nan_to_num(values, copy=False, nan=255, posinf=255, neginf=0)
    grey = np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    return Image.fromarray(grey).convert("RGB")
