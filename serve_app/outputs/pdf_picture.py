"""Pictures for a PDF, in the encoding that they came in or in the smallest one that loses nothing."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pikepdf import Array, Dictionary, Name, Object, Pdf, String
from PIL import Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

from serve_app.outputs.reading_frame import Matrix

_STRIP_OFFSETS, _STRIP_BYTES = 273, 279  # TIFF tags
_ONE_STRIP = 2**31 - 1  # bytes

_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types of PNG
_PNG_SIGNATURE_BYTES = 8

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """An image as a PDF has it: encoded bytes, and the entries that say how to decode them.

    PDF draws images on the unit square. `matrix` turns that square so that the image is upright; `width` and `height`, in
    pixels, are those of the upright image.
    """

    data: bytes
    width: int
    height: int
    entries: dict[str, Any]
    matrix: Matrix = (1, 0, 0, 1, 0, 0)

    def add_to(self, pdf: Pdf) -> Object:
        """Add the image to `pdf` and return its object."""
        return pdf.make_stream(self.data, Type=Name.XObject, Subtype=Name.Image, **self.entries)

    def turned(self, matrix: Matrix) -> Picture:
        """Return an image that stands as it is encoded, turned by `matrix`."""
        lies = matrix[0] == 0
        width, height = (self.height, self.width) if lies else (self.width, self.height)
        return replace(self, width=width, height=height, matrix=matrix)


def jpeg_picture(data: bytes, image: Image.Image, *, inverted_inks: bool) -> Picture:
    """Embed a JPEG unchanged. `image` is the same, opened; `inverted_inks` says how it has CMYK."""
    channels = len(image.getbands())
    entries = _samples(*image.size, channels, 8)
    entries["Filter"] = Name.DCTDecode
    if channels == 4 and inverted_inks:
        entries["Decode"] = Array([1, 0] * 4)
    return Picture(data, *image.size, entries)


def lossless_picture(image: Image.Image) -> Picture:
    """Encode an image of mode 1, L, P (without transparency) or RGB, in as few bits as it has colours for."""
    simple = _simplified(image)
    flate = png_picture(_png(simple))
    assert flate is not None
    return min(flate, _group_4(simple), key=_size) if simple.mode == "1" else flate


def drawn_picture(image: Image.Image) -> Picture:
    """Encode an RGB image that is a drawing of something: without loss unless a JPEG of high quality is smaller."""
    lossless = lossless_picture(image)
    if lossless.entries["BitsPerComponent"] == 1:
        return lossless
    grey = lossless.entries["ColorSpace"] == Name.DeviceGray
    simple = image.convert("L") if grey else image
    out = io.BytesIO()
    simple.save(out, "JPEG", quality=_JPEG_QUALITY)
    return min(lossless, jpeg_picture(out.getvalue(), simple, inverted_inks=False), key=_size)


def _size(picture: Picture) -> int:
    return len(picture.data)


def _simplified(image: Image.Image) -> Image.Image:
    """Return the same pixels in a simpler mode, if there is one."""
    if image.mode == "RGB":
        red, green, blue = image.split()
        if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
            return image
        image = red
    if image.mode == "P" and _colours(image) <= {(0, 0, 0), (255, 255, 255)}:
        image = image.convert("L")
    if image.mode == "L" and not any(image.histogram()[1:-1]):
        return image.convert("1", dither=Image.Dither.NONE)
    return image


def _colours(image: Image.Image) -> set[tuple[int, ...]]:
    """Return the colours that an image of mode P has."""
    palette = image.getpalette() or []
    used = (index for index, count in enumerate(image.histogram()) if count)
    return {tuple(palette[3 * index : 3 * index + 3]) for index in used}


def png_picture(data: bytes) -> Picture | None:
    """Embed the pixels of a PNG as its file has them; None for those that PDF cannot have: interlaced, transparent, short."""
    chunks = dict[bytes, bytes]()
    pixels = []
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            pixels.append(content)
        else:
            chunks.setdefault(kind, content)
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if interlaced or b"tRNS" in chunks or colour not in (_GREY, _RGB, _PALETTE):
        return None
    channels = 3 if colour == _RGB else 1
    compressed = b"".join(pixels)
    if not _inflates_to(compressed, ((width * channels * bits + 7) // 8 + 1) * height):
        return None
    entries = _samples(width, height, channels, bits)
    if colour == _PALETTE:
        palette = chunks[b"PLTE"]
        entries["ColorSpace"] = Array([Name.Indexed, Name.DeviceRGB, len(palette) // 3 - 1, String(palette)])
    entries["Filter"] = Name.FlateDecode
    entries["DecodeParms"] = Dictionary(Predictor=15, Colors=channels, BitsPerComponent=bits, Columns=width)
    return Picture(compressed, width, height, entries)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    # Pillow writes metadata of the image's origin unless told not to.
    image.save(out, "PNG", icc_profile=None, exif=b"")
    return out.getvalue()


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = _PNG_SIGNATURE_BYTES
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += length + 12


def _inflates_to(compressed: bytes, size: int) -> bool:
    """Whether the data is whole, which readers of PDF do not agree on how to show otherwise."""
    inflater = zlib.decompressobj()
    try:
        return len(inflater.decompress(compressed, size + 1)) == size
    except zlib.error:
        return False


def _group_4(image: Image.Image) -> Picture:
    """Encode as fax machines do (ITU-T T.6)."""
    out = io.BytesIO()
    # White is 0 there: the codes of long runs of 0 are the short ones.
    ImageChops.invert(image).save(out, "TIFF", compression="group4", strip_size=_ONE_STRIP)
    out.seek(0)
    tags = TiffImageFile(out).tag_v2
    (start,), (size,) = tags[_STRIP_OFFSETS], tags[_STRIP_BYTES]
    entries = _samples(*image.size, 1, 1)
    entries["Filter"] = Name.CCITTFaxDecode
    entries["DecodeParms"] = Dictionary(K=-1, Columns=image.width, Rows=image.height)
    return Picture(out.getvalue()[start : start + size], *image.size, entries)


def _samples(width: int, height: int, channels: int, bits: int) -> dict[str, Any]:
    return {
        "Width": width,
        "Height": height,
        "ColorSpace": {1: Name.DeviceGray, 3: Name.DeviceRGB, 4: Name.DeviceCMYK}[channels],
        "BitsPerComponent": bits,
    }
