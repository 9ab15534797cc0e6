"""Image files that are made byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)

Tag = tuple[int, int, tuple[int, ...]]  # number, type (3: 16 bits, 4: 32 bits), values


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners() -> Pixels:
    """48 x 32: black top left, red top right, green bottom left, blue bottom right, white between."""
    page = np.full((32, 48, 3), 255, np.uint8)
    page[:8, :8], page[:8, -8:], page[-8:, :8], page[-8:, -8:] = BLACK, RED, GREEN, BLUE
    return page


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """`rows` with the filter byte of each; `extra`: chunks between header and pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def tiff(pages: list[tuple[list[Tag], bytes]], order: str = "<", last_next: int | None = None) -> bytes:
    """A TIFF of uncompressed single-strip pages, each given by its tags and samples.

    `last_next`: index of the page that the last one points to as the next.
    """
    out = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0))
    pointer, starts = 4, []
    for tags, samples in pages:
        strip = len(out)
        out += samples + b"\0" * (len(samples) % 2)
        entries = b""
        for number, kind, values in sorted([*tags, (273, 4, (strip,)), (279, 4, (len(samples),))]):
            packed = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
            if len(packed) > 4:
                position = len(out)
                out += packed + b"\0" * (len(packed) % 2)
                packed = struct.pack(order + "I", position)
            entries += struct.pack(order + "HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
        start = len(out)
        starts.append(start)
        struct.pack_into(order + "I", out, pointer, start)
        out += struct.pack(order + "H", len(tags) + 2) + entries
        pointer = len(out)
        out += struct.pack(order + "I", 0)
    if last_next is not None:
        struct.pack_into(order + "I", out, pointer, starts[last_next])
    return bytes(out)


def tiff_tags(width: int, height: int, bits: tuple[int, ...], photometric: int, *more: Tag) -> list[Tag]:
    return [
        (256, 4, (width,)),
        (257, 4, (height,)),
        (258, 3, bits),
        (259, 3, (1,)),
        (262, 3, (photometric,)),
        (277, 3, (len(bits),)),
        (278, 4, (height,)),
        *more,
    ]


GREY_PAGE = (tiff_tags(4, 2, (8,), 1), bytes([0, 80, 160, 255] * 2))
