"""Takes the JPEG out of a TIFF page as one JPEG file, without decoding it.

A TIFF holds a JPEG in strips. Each is a short JPEG whose tables may stand apart (TIFF Technical Note 2), or all are pieces
of one JPEG (the old style, TIFF 6.0, section 22). Joined, each strip is a restart interval of the whole picture.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from serve_app.outputs.jpeg_parts import (
    ADOBE,
    DRI,
    EOI,
    RST0,
    SEQUENTIAL,
    SOI,
    SOS,
    JpegParts,
    jpeg_parts,
    segment,
)

_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _PLANAR = 256, 257, 259, 262, 284  # TIFF tags
_STRIPS, _STRIP_BYTES, _ROWS_PER_STRIP = 273, 279, 278
_TABLES, _INTERCHANGE, _INTERCHANGE_BYTES = 347, 513, 514
_OLD_STYLE, _NEW_STYLE = 6, 7  # values of _COMPRESSION
_RGB, _YCBCR = 2, 6  # values of _PHOTOMETRIC

_MAX_INTERVAL = 0xFFFF
"""Most units of a restart interval: its field has 16 bits."""


def jpeg_of_page(image: TiffImageFile, data: bytes) -> bytes | None:
    """Return the JPEG of the page that `image` has opened and not loaded; None if there is none to take out.

    `data` is the TIFF. Orientation is not applied. Raises ValueError, LookupError, TypeError or struct.error if the page
    is damaged. Compare the result with the page: writers differ in what they make of the format.
    """
    tags: Any = image.tag_v2
    style = tags.get(_COMPRESSION)
    if style not in (_OLD_STYLE, _NEW_STYLE) or tags.get(_PLANAR, 1) != 1 or _STRIPS not in tags:
        return None
    strips = [data[start : start + size] for start, size in zip(tags[_STRIPS], tags[_STRIP_BYTES], strict=True)]
    if style == _OLD_STYLE:
        start, size = tags.get(_INTERCHANGE), tags.get(_INTERCHANGE_BYTES)
        return None if start is None else _old_style(data[start : start + size if size else None], strips)
    return _new_style(strips, tags)


def _old_style(interchange: bytes, strips: Sequence[bytes]) -> bytes:
    """Return the interchange stream, with the strips if it ends before its pixels."""
    if jpeg_parts(interchange).entropy:
        return interchange
    return interchange.removesuffix(EOI) + b"".join(strips)


def _new_style(strips: Sequence[bytes], tags: Any) -> bytes | None:
    parts = [jpeg_parts(strip) for strip in strips]
    first = parts[0]
    width, height = tags[_WIDTH], tags[_HEIGHT]
    interval = first.interval
    if len(parts) > 1:
        across, down = _unit(first)
        rows = tags[_ROWS_PER_STRIP]
        interval = -(-width // across) * -(-rows // down)
        if rows % down or interval > _MAX_INTERVAL or not _can_be_joined(parts):
            return None
    tables = jpeg_parts(tags[_TABLES]).tables if _TABLES in tags else b""
    return b"".join(
        (
            SOI,
            first.adobe or _colours(first, tags.get(_PHOTOMETRIC)),
            tables,
            first.tables,
            segment(first.kind, first.frame[:1] + struct.pack(">HH", height, width) + first.frame[5:]),
            segment(DRI, struct.pack(">H", interval)) if interval else b"",
            segment(SOS, first.scan),
            *_with_restarts([part.entropy for part in parts]),
            EOI,
        )
    )


def _unit(parts: JpegParts) -> tuple[int, int]:
    """Return width and height in pixels of a minimum coded unit."""
    factors = [divmod(parts.frame[position], 16) for position in range(7, len(parts.frame), 3)]
    if len(factors) == 1:
        return 8, 8  # a single component is not interleaved
    return 8 * max(across for across, _ in factors), 8 * max(down for _, down in factors)


def _can_be_joined(parts: Sequence[JpegParts]) -> bool:
    """Whether the strips differ in nothing but height and pixels, and have one scan."""
    first = parts[0]
    return first.kind in SEQUENTIAL and all(
        (part.kind, part.bits, part.frame[3:], part.scan, part.tables, part.interval)
        == (first.kind, first.bits, first.frame[3:], first.scan, first.tables, 0)
        and bytes((0xFF, SOS)) not in part.entropy
        for part in parts
    )


def _colours(parts: JpegParts, photometric: int | None) -> bytes:
    """Return the segment that says how three components are colours. Without it, readers of PDF take them for YCbCr."""
    if parts.components != 3 or photometric not in (_RGB, _YCBCR):
        return b""
    return segment(ADOBE, b"Adobe\0\x64\0\0\0\0" + bytes((photometric == _YCBCR,)))


def _with_restarts(strips: Sequence[bytes]) -> Iterator[bytes]:
    for number, strip in enumerate(strips):
        if number:
            yield bytes((0xFF, RST0 + (number - 1) % 8))
        yield strip
