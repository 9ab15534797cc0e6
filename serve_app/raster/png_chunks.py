"""Prepares a PNG for Pillow: only the chunks that make the picture, and all the pixels that can be read.

Pillow refuses a file for text of a megabyte, for a damaged comment, or because its end is missing. Viewers show it.
Format: https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.errors import CorruptDocument

MAX_PNG_CHUNKS = 1000
"""Most chunks of a PNG besides those of its pixels."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = {b"PLTE": range(3, 769), b"tRNS": range(1, 257), b"pHYs": range(9, 10), b"eXIf": range(2**20)}
"""Chunks that the picture needs besides IHDR and IDAT, and their sizes. Colour profiles are not applied."""

_PIECE_BYTES = 256
"""Bytes unpacked at once: what a piece has before an error is lost."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced image: first column and row, steps across and down."""


@dataclass(frozen=True)
class PreparedPng:
    """A PNG that Pillow can read. If `is_damaged`, pixels that were missing are white, or of the last palette colour."""

    data: bytes
    is_damaged: bool


def png_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the header. Raises CorruptDocument."""
    return _Header.of(data).size


def prepare_png(data: bytes, *, check_pixels: bool = False) -> PreparedPng:
    """Leave out metadata, and complete pixels whose end is missing or damaged.

    With `check_pixels`, pixels are looked at even if the checksums are right. Check the size first: doubtful pixels are
    unpacked. Raises CorruptDocument if the header is damaged, if there are more than MAX_PNG_CHUNKS, or if no row of
    pixels can be read.
    """
    header = _Header.of(data)
    kept, pixels = [], []
    is_doubtful = True  # until the end is seen
    for kind, content, is_whole in _chunks(data):
        if kind == b"IDAT":
            pixels.append(content)
            check_pixels = check_pixels or not is_whole
        elif kind == b"IEND":
            is_doubtful = False
            break
        elif kind in _PICTURE and is_whole and len(content) in _PICTURE[kind]:
            kept.append(_chunk(kind, content))
    stream, is_damaged = b"".join(pixels), False
    if check_pixels or is_doubtful:
        stream, is_damaged = _complete(stream, header)
    start = _SIGNATURE + _chunk(b"IHDR", header.content)
    return PreparedPng(b"".join([start, *kept, _chunk(b"IDAT", stream), _chunk(b"IEND", b"")]), is_damaged)


@dataclass(frozen=True)
class _Header:
    content: bytes
    size: tuple[int, int]
    row_bits: int  # for each pixel
    is_interlaced: bool

    @classmethod
    def of(cls, data: bytes) -> _Header:
        first = next(_chunks(data), None)
        if first is None or first[0] != b"IHDR" or not first[2] or len(first[1]) != 13:
            raise CorruptDocument("The PNG image is damaged: its header cannot be read.")
        width, height, depth, colour, _, _, interlacing = struct.unpack(">IIBBBBB", first[1])
        if colour not in _CHANNELS or not width or not height:
            raise CorruptDocument("The PNG image is damaged: its header cannot be read.")
        return cls(first[1], (width, height), depth * _CHANNELS[colour], interlacing == 1)

    @property
    def stream_bytes(self) -> int:
        """Size of the unpacked pixels: each row of each pass has a filter byte."""
        return sum(rows * (1 + row) for row, rows in self.passes())

    def passes(self) -> Iterator[tuple[int, int]]:
        """Yield (bytes of a row without its filter, rows) of each pass."""
        width, height = self.size
        for left, top, across, down in _ADAM7 if self.is_interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(width - left) // across), -(-(height - top) // down)
            if columns > 0 and rows > 0:
                yield -(-columns * self.row_bits // 8), rows


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind, content, and whether the content is whole and its checksum right."""
    position, others = len(_SIGNATURE), 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        others += kind != b"IDAT"
        if others > MAX_PNG_CHUNKS:
            raise CorruptDocument("The PNG image has too many chunks besides its pixels.")
        end = position + 8 + length
        content = data[position + 8 : end]
        checksum = data[end : end + 4]
        yield kind, content, checksum == zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")
        position = end + 4


def _complete(stream: bytes, header: _Header) -> tuple[bytes, bool]:
    """Return the packed pixels, white where they cannot be unpacked, and whether that is so anywhere."""
    size = header.stream_bytes
    unpacked, has_error = _unpack(stream, size)
    if len(unpacked) == size and not has_error:
        return stream, False
    left = len(unpacked)
    if left <= next(header.passes())[0]:
        raise CorruptDocument("The PNG image is damaged: none of its pixels can be read.")
    whole, white = 0, bytearray()
    for row, rows in header.passes():
        readable = min(left // (row + 1), rows)
        whole += readable * (row + 1)
        left = left - readable * (row + 1) if readable == rows else 0
        white += (b"\0" + b"\xff" * row) * (rows - readable)
    return zlib.compress(bytes(unpacked[:whole] + white), 1), True


def _unpack(stream: bytes, size: int) -> tuple[bytearray, bool]:
    """Unpack at most `size` bytes, up to the first error. Returns them, and whether there was an error."""
    unpacker = zlib.decompressobj()
    unpacked = bytearray()
    try:
        for start in range(0, len(stream), _PIECE_BYTES):
            piece = stream[start : start + _PIECE_BYTES]
            while piece and len(unpacked) < size:
                unpacked += unpacker.decompress(piece, size - len(unpacked))
                piece = unpacker.unconsumed_tail
    except zlib.error:
        return unpacked, True
    return unpacked, False


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
