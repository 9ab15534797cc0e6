"""The parts of a JPEG file, without decoding it. Markers are those of ITU-T T.81, annex B."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOS, DQT, DHT, DRI, ADOBE, RST0 = 0xDA, 0xDB, 0xC4, 0xDD, 0xEE, 0xD0

SEQUENTIAL = (0xC0, 0xC1)
IN_PDF = (*SEQUENTIAL, 0xC2)
"""Kinds of frames that readers of PDF decode: with Huffman codes, sequential or progressive."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_MAX_SEGMENTS = 10_000


@dataclass
class JpegParts:
    """`tables` and `adobe` (how components are colours) are whole segments; `frame` and `scan` are without marker and length.

    `kind` is the frame's marker, 0 without a frame. `entropy` is all that follows the first scan's header, without the
    end marker.
    """

    tables: bytes = b""
    adobe: bytes = b""
    interval: int = 0
    kind: int = 0
    frame: bytes = b""
    scan: bytes = b""
    entropy: bytes = b""

    @property
    def bits(self) -> int:
        return self.frame[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = struct.unpack_from(">HH", self.frame, 1)
        return width, height

    @property
    def components(self) -> int:
        return self.frame[5]


def jpeg_parts(data: bytes) -> JpegParts:
    """Split a JPEG, or the tables of one. Raises ValueError, IndexError or struct.error if it is damaged."""
    if not data.startswith(SOI):
        raise ValueError("no JPEG")
    parts, tables = JpegParts(), list[bytes]()
    position = len(SOI)
    for _ in range(_MAX_SEGMENTS):
        if position + 2 > len(data):
            break
        lead, marker = data[position], data[position + 1]
        if lead != 0xFF:
            raise ValueError("no marker")
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2  # 0xFF: a marker may have any number of them before it
            continue
        if marker == EOI[1]:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        payload = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker in (DQT, DHT):
            tables.append(segment(marker, payload))
        elif marker == ADOBE:
            parts.adobe = segment(marker, payload)
        elif marker == DRI:
            (parts.interval,) = struct.unpack(">H", payload)
        elif marker in _FRAMES:
            parts.kind, parts.frame = marker, payload
        elif marker == SOS:
            parts.scan = payload
            parts.entropy = data[position:].removesuffix(EOI)
            break
    else:
        raise ValueError("too many segments")
    parts.tables = b"".join(tables)
    return parts


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
