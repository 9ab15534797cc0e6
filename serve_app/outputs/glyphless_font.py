"""A font of text that is found but not seen: a TrueType face made from nothing.

Glyph 0 is the obligatory .notdef, without a contour. Glyph 1 stands for every character: a line there and back, which
has no ink and yet extends over the whole of the character; PDFium, which takes the size of glyphs for that of text,
would pass over text without any. All tables that a PDF needs of an embedded TrueType font are there, and those that
stricter viewers ask for beside them (OS/2, cmap, name, post).
Table by table: https://learn.microsoft.com/typography/opentype/spec/.
"""

from __future__ import annotations

import struct

import pikepdf
from pikepdf import Array, Dictionary, Name

UNITS_PER_EM = 1000
ADVANCE = 500
"""Of every character, in thousandths of the font's size."""
ASCENT, DESCENT = 800, -200
"""Above and below the baseline, in thousandths of the font's size: together one em, so that size is height."""

FONT_NAME = "Glyphless"

_BOUNDS = (0, DESCENT, ADVANCE, ASCENT)

_CHECKSUM_MAGIC = 0xB1B0AFBA
_CHECKSUM_ADJUSTMENT_AT = 8  # within head
_BYTE_ALIGNED = 4
_GLYPHS = 2

_MAX_CODE = 0xFFFF
_BFCHARS_AT_ONCE = 100  # the most that a CMap may have in one section


class InvisibleFont:
    """A font of which any character can be searched for and none is seen.

    Codes are given to characters as they come, so that those outside the Basic Multilingual Plane need nothing
    special, and the map back to Unicode holds just what is used.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {"\ufffd": 1}

    def encode(self, text: str) -> str:
        """`text` as a hexadecimal string of PDF. Should the codes run out, new characters become U+FFFD."""
        return f"<{''.join(f'{self._code(character):04x}' for character in text)}>"

    def _code(self, character: str) -> int:
        if len(self._codes) >= _MAX_CODE:
            return self._codes.get(character, 1)
        return self._codes.setdefault(character, len(self._codes) + 1)

    def add_to(self, pdf: pikepdf.Pdf) -> pikepdf.Object:
        """The font as an object of `pdf`; to be called when everything is encoded."""
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name("/" + FONT_NAME),
            Flags=4,  # symbolic
            FontBBox=Array(_BOUNDS),
            ItalicAngle=0,
            Ascent=ASCENT,
            Descent=DESCENT,
            CapHeight=700,
            StemV=80,
            FontFile2=pdf.make_stream(font := glyphless_face(), Length1=len(font)),
        )
        face = Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=Name("/" + FONT_NAME),
            CIDSystemInfo=Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
            FontDescriptor=pdf.make_indirect(descriptor),
            DW=ADVANCE,
            CIDToGIDMap=pdf.make_stream(b"\0\0" + b"\0\1" * len(self._codes)),
        )
        return pdf.make_indirect(
            Dictionary(
                Type=Name.Font,
                Subtype=Name.Type0,
                BaseFont=Name("/" + FONT_NAME),
                Encoding=Name("/Identity-H"),
                DescendantFonts=Array([pdf.make_indirect(face)]),
                ToUnicode=pdf.make_stream(self._to_unicode()),
            )
        )

    def _to_unicode(self) -> bytes:
        pairs = [f"<{code:04x}> <{character.encode('utf-16-be').hex()}>" for character, code in self._codes.items()]
        sections = [pairs[start : start + _BFCHARS_AT_ONCE] for start in range(0, len(pairs), _BFCHARS_AT_ONCE)]
        return "\n".join(
            [
                "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap",
                "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def",
                "/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def",
                "1 begincodespacerange\n<0000> <ffff>\nendcodespacerange",
                *(f"{len(section)} beginbfchar\n" + "\n".join(section) + "\nendbfchar" for section in sections),
                "endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n",
            ]
        ).encode()


def glyphless_face() -> bytes:
    """The file of the font, the same bytes each time."""
    tables = {
        b"OS/2": _os2(),
        b"cmap": _cmap(),
        b"glyf": (glyph := _glyph()),
        b"head": _head(),
        b"hhea": struct.pack(
            ">IhhhHhhhhhh8xhH", 0x10000, ASCENT, DESCENT, 0, ADVANCE, 0, 0, ADVANCE, 1, 0, 0, 0, _GLYPHS
        ),
        b"hmtx": struct.pack(">Hh", ADVANCE, 0) * _GLYPHS,
        b"loca": struct.pack(">HHH", 0, 0, len(glyph) // 2),
        b"maxp": struct.pack(">IH13H", 0x10000, _GLYPHS, *(2, 1, 0, 0, 1, *[0] * 8)),
        b"name": _name(),
        b"post": struct.pack(">IihhI16x", 0x30000, 0, -100, 50, 1),
    }
    count = len(tables)
    power = 1 << (count.bit_length() - 1)
    header = struct.pack(">IHHHH", 0x10000, count, power * 16, power.bit_length() - 1, (count - power) * 16)
    directory, body = b"", b""
    for tag, table in tables.items():
        offset = len(header) + 16 * count + len(body)
        directory += struct.pack(">4sIII", tag, _checksum(table), offset, len(table))
        body += _padded(table)
    font = bytearray(header + directory + body)
    head_at = font.index(_padded(tables[b"head"]))
    struct.pack_into(">I", font, head_at + _CHECKSUM_ADJUSTMENT_AT, (_CHECKSUM_MAGIC - _checksum(font)) % 2**32)
    return bytes(font)


def _padded(table: bytes) -> bytes:
    return table + bytes(-len(table) % _BYTE_ALIGNED)


def _checksum(data: bytes | bytearray) -> int:
    padded = _padded(bytes(data))
    return sum(int.from_bytes(padded[at : at + 4]) for at in range(0, len(padded), 4)) % 2**32


def _head() -> bytes:
    # The checksum is set when the font is whole; dates are zero, to have the same bytes each time.
    return struct.pack(
        ">IIIIHHqqhhhhHHhhh", 0x10000, 0x10000, 0, 0x5F0F3CF5, 0, UNITS_PER_EM, 0, 0, *_BOUNDS, 0, 8, 2, 0, 0
    )


def _glyph() -> bytes:
    """One contour of two points, at opposite corners of the character."""
    left, bottom, right, top = _BOUNDS
    on_curve = 1
    points = struct.pack(">BBhhhh", on_curve, on_curve, left, right - left, bottom, top - bottom)
    return struct.pack(">h4hHH", 1, *_BOUNDS, 1, 0) + points


def _cmap() -> bytes:
    """Windows Unicode, format 4, only the final segment: no character has a glyph of its own."""
    segments = struct.pack(">HHHHHHH", 2, 2, 0, 0, 0xFFFF, 0, 0xFFFF) + struct.pack(">hH", 1, 0)
    subtable = struct.pack(">HHH", 4, 6 + len(segments), 0) + segments
    return struct.pack(">HHHHI", 0, 1, 3, 1, 12) + subtable


def _name() -> bytes:
    """Family, style, unique, full and PostScript name, for Windows in US English."""
    strings = {1: FONT_NAME, 2: "Regular", 3: FONT_NAME, 4: FONT_NAME, 6: FONT_NAME}
    records, storage = b"", b""
    for name_id, string in strings.items():
        encoded = string.encode("utf-16-be")
        records += struct.pack(">HHHHHH", 3, 1, 0x409, name_id, len(encoded), len(storage))
        storage += encoded
    return struct.pack(">HHH", 0, len(strings), 6 + len(records)) + records + storage


def _os2() -> bytes:
    """Version 3; weight 400, width 5, embedding unrestricted, style Regular."""
    return struct.pack(
        ">HhHHH10hh10s16s4sHHHhhhHH8xhhHHH",
        *(3, ADVANCE, 400, 5, 0),
        *(650, 700, 0, 140, 650, 700, 0, 480, 50, 260),  # sub- and superscript, strike-out
        *(0, bytes(10), bytes(16), b"NONE", 0x40, 0xFFFF, 0xFFFF),
        *(ASCENT, DESCENT, 0, ASCENT, -DESCENT),
        *(500, 700, 0, 0x20, 0),  # heights of x and of capitals
    )
