"""The font of a searchable PDF's text, which can be searched but is invisible.

Its file is `fonts/glyphless.ttf`, made by `make font`. One glyph stands for every character. A second face of it has
nothing but a space, to mark places: see `invisible_text`.
"""

from __future__ import annotations

from importlib import resources

import pikepdf
from pikepdf import Array, Dictionary, Name

FONT_NAME = "Glyphless"

UNITS_PER_EM = 1000

ADVANCE = 500
"""Width of every character, in thousandths of the font's size."""

ASCENT, DESCENT = 800, -200
"""Distances from the baseline, in thousandths of the font's size. They add up to one em, so size is height."""

PLACES = "Places"
"""Suffix of the name of the face that has nothing but a space."""

_MAX_CODE = 0xFFFF
_BFCHARS_PER_SECTION = 100  # a CMap allows no more


class InvisibleFont:
    """The font in one PDF. It encodes any character.

    Each new character gets the next code, so characters outside the Basic Multilingual Plane need nothing special,
    and the map back to Unicode (ToUnicode) lists only the characters in use.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {"\ufffd": 1}
        self._has_places = False

    def encode(self, text: str) -> str:
        """Return `text` as a hexadecimal PDF string. If the codes run out, new characters become U+FFFD."""
        return f"<{''.join(f'{self._code(character):04x}' for character in text)}>"

    def encode_place(self) -> str:
        """Return a space as a PDF string for the face PLACES."""
        self._has_places = True
        return "( )"

    def _code(self, character: str) -> int:
        if len(self._codes) >= _MAX_CODE:
            return self._codes.get(character, 1)
        return self._codes.setdefault(character, len(self._codes) + 1)

    def add_to(self, pdf: pikepdf.Pdf) -> dict[str, pikepdf.Object]:
        """Add the font to `pdf` and return its faces by the suffix of their names. Call this after the last `encode`."""
        font = font_file()
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name("/" + FONT_NAME),
            Flags=4,  # symbolic
            FontBBox=Array((0, DESCENT, ADVANCE, ASCENT)),
            ItalicAngle=0,
            Ascent=ASCENT,
            Descent=DESCENT,
            CapHeight=700,
            StemV=80,
            FontFile2=pdf.make_stream(font, Length1=len(font)),
        )
        described = pdf.make_indirect(descriptor)
        face = Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=Name("/" + FONT_NAME),
            CIDSystemInfo=Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
            FontDescriptor=described,
            DW=ADVANCE,
            CIDToGIDMap=pdf.make_stream(b"\0\0" + b"\0\1" * len(self._codes)),
        )
        text = Dictionary(
            Type=Name.Font,
            Subtype=Name.Type0,
            BaseFont=Name("/" + FONT_NAME),
            Encoding=Name("/Identity-H"),
            DescendantFonts=Array([pdf.make_indirect(face)]),
            ToUnicode=pdf.make_stream(self._to_unicode()),
        )
        faces: dict[str, pikepdf.Object] = {"": pdf.make_indirect(text)}
        if self._has_places:
            faces[PLACES] = pdf.make_indirect(_face_of_a_space(pdf, descriptor))
        return faces

    def _to_unicode(self) -> bytes:
        pairs = [f"<{code:04x}> <{character.encode('utf-16-be').hex()}>" for character, code in self._codes.items()]
        sections = [pairs[start : start + _BFCHARS_PER_SECTION] for start in range(0, len(pairs), _BFCHARS_PER_SECTION)]
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


def _face_of_a_space(pdf: pikepdf.Pdf, descriptor: Dictionary) -> Dictionary:
    latin = Dictionary(dict(descriptor.items()))
    latin.Flags = 32  # not symbolic: PDF/A allows no symbolic TrueType face with an encoding
    return Dictionary(
        Type=Name.Font,
        Subtype=Name.TrueType,
        BaseFont=Name("/" + FONT_NAME),
        FirstChar=32,
        LastChar=32,
        Widths=Array([ADVANCE]),
        FontDescriptor=pdf.make_indirect(latin),
        Encoding=Name.WinAnsiEncoding,
    )


def font_file() -> bytes:
    """Read the TrueType file."""
    return resources.files(__package__).joinpath("fonts", "glyphless.ttf").read_bytes()
