"""TIFF files with JPEG of the old style (TIFF 6.0, section 22), in the layouts that writers used."""

from __future__ import annotations

import re
import struct
from typing import Literal

from PIL import Image

from serve_app.raster.jpeg_parts import DQT, jpeg_parts
from tests.support.image_files import save

Layout = Literal["whole", "header", "tables"]
"""Where the header of the JPEG is: in a stream with the pixels, in one without them, or in tables apart."""


def old_jpeg_tiff(
    image: Image.Image, layout: Layout, *, order: str = "<", rows: int | None = None, orientation: int = 1
) -> bytes:
    """A TIFF of `image`, of mode L or RGB, in strips of so many rows, which are a multiple of 16."""
    unit = 8 if image.mode == "L" else 16
    restarts = {} if rows is None else {"restart_marker_rows": rows // unit}
    jpeg = save(image, "JPEG", quality=90, **restarts)
    parts = jpeg_parts(jpeg)
    header = jpeg[: jpeg.index(parts.entropy)]
    strips = re.split(rb"\xff[\xd0-\xd7]", parts.entropy)
    count = len(image.getbands())
    tags: dict[int, list[int]] = {
        **{256: [image.width], 257: [image.height], 258: [8] * count, 259: [6], 262: [1 if count == 1 else 6]},
        **{274: [orientation], 277: [count], 278: [rows or image.height], 279: [len(strip) for strip in strips]},
    }
    contents: dict[int, list[bytes]] = {273: strips}  # what tags point to
    if layout == "whole":
        contents, tags[279], tags[514] = {513: [jpeg]}, [len(jpeg)], [len(jpeg)]
    elif layout == "header":
        contents[513], tags[514] = [header], [len(header)]
    else:
        contents.update(_tables(parts.tables, count))
        if rows is not None:
            tags[515] = [parts.interval]
    if count == 3:
        tags[530] = [2, 2]
    return _tiff(tags, contents, order)


def _tables(segments: bytes, count: int) -> dict[int, list[bytes]]:
    """Tables of each component: quantizers, codes of DC, codes of AC."""
    quantizers, codes = dict[int, bytes](), dict[int, bytes]()
    position = 0
    while position < len(segments):
        marker, length = struct.unpack_from(">xBH", segments, position)
        number, table = segments[position + 4], segments[position + 5 : position + 2 + length]
        (quantizers if marker == DQT else codes)[number] = table
        position += 2 + length
    chosen = [min(component, 1) for component in range(count)]
    return {
        519: [quantizers[number] for number in chosen],
        520: [codes[number] for number in chosen],
        521: [codes[16 + number] for number in chosen],
    }


def _tiff(tags: dict[int, list[int]], contents: dict[int, list[bytes]], order: str) -> bytes:
    """The directory comes first, and the pixels last."""
    count = len(tags.keys() | contents.keys() | {273})
    out = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, count) + bytes(12 * count + 4))

    def put(data: bytes) -> int:
        start = len(out)
        out.extend(data + b"\0" * (len(data) % 2))
        return start

    def encoded(tag: int, values: list[int]) -> bytes:
        kind, code = (3, "H") if tag in (258, 259, 262, 274, 277, 515, 530) else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        value = packed if len(packed) <= 4 else struct.pack(order + "I", put(packed))
        return struct.pack(order + "HHI", tag, kind, len(values)) + value.ljust(4, b"\0")

    entries = {tag: encoded(tag, values) for tag, values in tags.items()}
    places = {tag: put(bytes(4 * len(pieces))) for tag, pieces in contents.items()}
    for tag, pieces in sorted(contents.items(), reverse=True):
        starts = [put(piece) for piece in pieces]
        packed = struct.pack(f"{order}{len(starts)}I", *starts)
        out[places[tag] : places[tag] + len(packed)] = packed
        value = packed if len(packed) <= 4 else struct.pack(order + "I", places[tag])
        entries[tag] = struct.pack(order + "HHI", tag, 4, len(starts)) + value
    entries.setdefault(273, struct.pack(order + "HHI", 273, 4, 1) + entries.get(513, b"")[8:])
    out[10 : 10 + 12 * count] = b"".join(entries[tag] for tag in sorted(entries))
    return bytes(out)
