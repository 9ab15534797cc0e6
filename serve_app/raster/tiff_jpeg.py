"""Takes the JPEG out of a TIFF page as one JPEG file, without decoding it.

A TIFF holds a JPEG in strips. Each is a short JPEG whose tables may stand apart (TIFF Technical Note 2), or all are pieces
of one JPEG whose header may stand apart, as a stream or as single tables (the old style: TIFF 6.0, section 22). Joined, each
strip is one or more restart intervals of the whole picture.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from serve_app.raster.jpeg_parts import (
    ADOBE,
    DHT,
    DQT,
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
_JPEG_TABLES, _INTERCHANGE, _INTERCHANGE_BYTES, _SUBSAMPLING = 347, 513, 514, 530
_PROCESS, _INTERVAL, _Q_TABLES, _DC_TABLES, _AC_TABLES = 512, 515, 519, 520, 521
_OLD_STYLE, _NEW_STYLE = 6, 7  # values of _COMPRESSION
_RGB, _YCBCR = 2, 6  # values of _PHOTOMETRIC
_BASELINE = 1  # value of _PROCESS; the other one is lossless

_MAX_INTERVAL = 0xFFFF
"""Most units of a restart interval: its field has 16 bits."""

_MAX_COMPONENTS = 4

_Q_TABLE_BYTES = 64
_CODE_LENGTHS = 16
"""A Huffman table begins with the number of its codes of each length."""


def is_old_style(image: TiffImageFile) -> bool:
    """Whether the page has JPEG of the old style."""
    return bool(image.tag_v2.get(_COMPRESSION) == _OLD_STYLE)


def jpeg_of_page(image: TiffImageFile, data: bytes) -> bytes | None:
    """Return the JPEG of the page that `image` has opened and not loaded; None if there is none to take out.

    `data` is the TIFF. Orientation is not applied. Raises ValueError, LookupError, TypeError or struct.error if the page
    is damaged. Compare the result with the page: writers differ in what they make of the format.
    """
    tags: Any = image.tag_v2
    style = tags.get(_COMPRESSION)
    if style not in (_OLD_STYLE, _NEW_STYLE) or tags.get(_PLANAR, 1) != 1 or _STRIPS not in tags:
        return None
    places = [slice(start, start + size) for start, size in zip(tags[_STRIPS], tags[_STRIP_BYTES], strict=True)]
    if sum(len(range(len(data))[place]) for place in places) > len(data):
        return None  # strips share their bytes, so each copy of them might be as large as the file
    strips = [data[place] for place in places]
    if style == _NEW_STYLE:
        return _new_style(strips, tags)
    start = tags.get(_INTERCHANGE, 0)
    if start and data.startswith(SOI, start):
        size = tags.get(_INTERCHANGE_BYTES) or len(data)
        return _old_style(data[start : start + size], strips, tags)
    if all(strip.startswith(SOI) for strip in strips):
        return _new_style(strips, tags)
    return _joined(_parts_of_tags(data, tags), strips, tags) if tags.get(_PROCESS, _BASELINE) == _BASELINE else None


def is_cut(image: TiffImageFile, data: bytes) -> bool:
    """Whether pixels of the page lie beyond the end of its file `data`."""
    tags: Any = image.tag_v2
    ends: list[int] = [start + size for start, size in zip(tags[_STRIPS], tags[_STRIP_BYTES], strict=True)]
    return max(ends) > len(data)


def _new_style(strips: Sequence[bytes], tags: Any) -> bytes | None:
    parts = [jpeg_parts(strip) for strip in strips]
    if len(parts) > 1 and not _can_be_joined(parts):
        return None
    tables = jpeg_parts(tags[_JPEG_TABLES]).tables if _JPEG_TABLES in tags else b""
    return _joined(replace(parts[0], tables=tables + parts[0].tables), [part.entropy for part in parts], tags)


def _old_style(interchange: bytes, strips: Sequence[bytes], tags: Any) -> bytes | None:
    """Join the interchange stream with the strips if it ends before its pixels."""
    parts = jpeg_parts(interchange)
    if not parts.kind:
        return None
    # Some writers count the picture without what fills its last units.
    units = [-(-side // unit) for side, unit in zip(parts.size, _unit(parts), strict=True)]
    if units != [-(-side // unit) for side, unit in zip((tags[_WIDTH], tags[_HEIGHT]), _unit(parts), strict=True)]:
        return None
    pixels = parts.entropy.partition(EOI)[0]
    return _joined(parts, [pixels] if pixels else strips, tags)


def _parts_of_tags(data: bytes, tags: Any) -> JpegParts:
    """Return the header of a JPEG whose tables have tags of their own, one for each component."""
    count = len(_places(tags[_Q_TABLES]))
    across, down = tags.get(_SUBSAMPLING, (2, 2)) if tags.get(_PHOTOMETRIC) == _YCBCR else (1, 1)
    quantizers = [data[start : start + _Q_TABLE_BYTES] for start in _places(tags[_Q_TABLES])]
    codes = [[_huffman_table(data, start) for start in _places(tags[tag])] for tag in (_DC_TABLES, _AC_TABLES)]
    tables = b"".join(segment(DQT, bytes((number,)) + table) for number, table in enumerate(_distinct(quantizers)))
    for kind, of_kind in enumerate(codes):
        for number, table in enumerate(_distinct(of_kind)):
            tables += segment(DHT, bytes((16 * kind + number,)) + table)
    frame, scan = bytes((8, 0, 0, 0, 0, count)), bytes((count,))
    for component in range(count):
        sampling = 16 * across + down if component == 0 else 0x11
        frame += bytes((component + 1, sampling, _distinct(quantizers).index(quantizers[component])))
        direct, alternating = (_distinct(of_kind).index(of_kind[component]) for of_kind in codes)
        scan += bytes((component + 1, 16 * direct + alternating))
    kind = SEQUENTIAL[max(len(_distinct(of_kind)) for of_kind in codes) > 2]  # baseline allows two tables of a kind
    return JpegParts(tables, interval=tags.get(_INTERVAL, 0), kind=kind, frame=frame, scan=scan + b"\0\x3f\0")


def _places(value: int | tuple[int, ...]) -> tuple[int, ...]:
    places = value if isinstance(value, tuple) else (value,)
    if len(places) > _MAX_COMPONENTS:
        raise ValueError("too many components")
    return places


def _huffman_table(data: bytes, start: int) -> bytes:
    return data[start : start + _CODE_LENGTHS + sum(data[start : start + _CODE_LENGTHS])]


def _distinct(tables: Sequence[bytes]) -> list[bytes]:
    return list(dict.fromkeys(tables))


def _joined(parts: JpegParts, strips: Sequence[bytes], tags: Any) -> bytes | None:
    """Return the JPEG with the header `parts` and the pixels of `strips`."""
    width, height = tags[_WIDTH], tags[_HEIGHT]
    interval, intervals = parts.interval, 1
    if len(strips) > 1:
        across, down = _unit(parts)
        rows = tags[_ROWS_PER_STRIP]
        units = -(-width // across) * -(-rows // down)
        interval = interval or units
        intervals, rest = divmod(units, interval)
        is_interleaved = parts.scan[0] == parts.components
        if rows % down or rest or interval > _MAX_INTERVAL or parts.kind not in SEQUENTIAL or not is_interleaved:
            return None
    return b"".join(
        (
            SOI,
            parts.adobe or _colours(parts, tags.get(_PHOTOMETRIC)),
            parts.tables,
            segment(parts.kind, parts.frame[:1] + struct.pack(">HH", height, width) + parts.frame[5:]),
            segment(DRI, struct.pack(">H", interval)) if interval else b"",
            segment(SOS, parts.scan),
            *_with_restarts(strips, intervals),
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
    return all(
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


def _with_restarts(strips: Sequence[bytes], intervals: int) -> Iterator[bytes]:
    """Yield strips of so many restart intervals with the markers between them, which some strips end with already."""
    for number, strip in enumerate(strips):
        if number:
            yield bytes((0xFF, RST0 + (number * intervals - 1) % 8))
        is_marked = len(strips) > 1 and strip[-2:-1] == b"\xff" and RST0 <= strip[-1] < RST0 + 8
        yield strip[:-2] if is_marked else strip.removesuffix(EOI)
