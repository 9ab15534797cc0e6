"""Draws PDF text in the system's fonts where the PDF does not embed its own.

PDFium's built-in fonts have Latin letters only, and it prefers them to the system's: Cyrillic text in an Arial that is
not embedded would be drawn blank. PDFium asks the callbacks of FPDF_SYSFONTINFO (public/fpdf_sysfontinfo.h) for a font.
Here they choose one of the same widths, and leave finding and reading the files to PDFium.

    python -m serve_app.raster.fonts

prints nothing and exits with 0 if the recommended fonts are installed; else it prints one line and exits with 1.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

_SANS = ("Liberation Sans", "Arimo", "DejaVu Sans")
_SERIF = ("Liberation Serif", "Tinos", "DejaVu Serif")
_MONO = ("Liberation Mono", "Cousine", "DejaVu Sans Mono")

_WIDEST = ("DejaVu Sans",)
"""Fonts that have what the others lack: Hebrew, Arabic, Armenian and Georgian letters."""

_FAMILIES: dict[str, tuple[str, ...]] = {
    "arialnarrow": ("Arial Narrow", "Liberation Sans Narrow", *_SANS),
    "liberationsansnarrow": ("Arial Narrow", "Liberation Sans Narrow", *_SANS),  # PDFium's name for Arial Narrow
    "arial": ("Arial", *_SANS),
    "helvetica": ("Arial", *_SANS),
    "times": ("Times New Roman", *_SERIF),
    "courier": ("Courier New", *_MONO),
    "tahoma": ("Tahoma", *_SANS),
    "verdana": ("Verdana", "DejaVu Sans", *_SANS),
    "calibri": ("Calibri", "Carlito", *_SANS),
    "cambria": ("Cambria", "Caladea", *_SERIF),
    "georgia": ("Georgia", "Gelasio", *_SERIF),
    "consolas": ("Consolas", *_MONO),
    **dict.fromkeys(("garamond", "bookman", "bookantiqua", "century", "palatino", "minion"), _SERIF),
    **dict.fromkeys(("lucidaconsole", "monospace"), _MONO),
}
"""Fonts for the families of PDFs, by the beginning of the name: the family itself, then those of the same widths."""

_SYMBOLS = ("symbol", "zapfdingbats", "wingdings", "webdings", "marlett", "mtextra")
"""Families whose letters are pictures. Letters in their place would be read as text."""

_PACKAGES = {
    "Liberation Sans": "fonts-liberation",
    "Liberation Serif": "fonts-liberation",
    "Liberation Mono": "fonts-liberation",
    "Carlito": "fonts-crosextra-carlito",
    "Caladea": "fonts-crosextra-caladea",
    "DejaVu Sans": "fonts-dejavu-core",
}
"""The recommended fonts, and the Debian packages that bring them."""

_STYLES = {
    (False, False): ("", " Book", " Regular"),
    (True, False): (" Bold",),
    (False, True): (" Italic", " Oblique"),
    (True, True): (" Bold Italic", " Bold Oblique", " BoldItalic"),
}
_BOLD_WEIGHT = 600

_FIXED_PITCH, _ROMAN = 1, 16  # FXFONT_FF_FIXEDPITCH, FXFONT_FF_ROMAN
_SYMBOL_CHARSET = 2
_CJK_CHARSETS = (128, 129, 130, 134, 136)  # Shift JIS, Hangul, Johab, GB 2312, Big 5

_MAX_FONT_BYTES = 64 * 2**20
_MAC, _NO_PLATFORM = 1, 2  # of a table that maps characters to glyphs; nothing reads the second


class SystemFonts:
    """The fonts of this machine, as PDFium sees them. `requests` counts the fonts for which PDFium needed one of them."""

    def __init__(self) -> None:
        self._default = pdfium_c.FPDF_GetDefaultSystemFontInfo()
        self.requests = 0
        self._widest_first = False
        info = pdfium_c.FPDF_SYSFONTINFO(version=1)
        kinds = dict(pdfium_c.FPDF_SYSFONTINFO._fields_)
        for name in ("EnumFonts", "GetFont", "GetFaceName", "GetFontCharset", "DeleteFont"):
            setattr(info, name, kinds[name](self._passed_on(name)))
        info.MapFont = kinds["MapFont"](self._map_font)
        info.GetFontData = kinds["GetFontData"](self._font_data)
        self._info = info  # PDFium keeps a pointer to it
        pdfium_c.FPDF_SetSystemFontInfo(info)

    def find(self, face: str, *, bold: bool = False, italic: bool = False) -> Any:
        """Return PDFium's handle of an installed font, the regular one if it has no such style; None without any."""
        for style in (*_STYLES[bold, italic], *_STYLES[False, False]):
            if font := self._default.contents.GetFont(self._default, f"{face}{style}".encode()):
                return font
        return None

    @contextmanager
    def widest_first(self) -> Iterator[None]:
        """Give documents that are opened in this context the fonts with the most letters, not those of the right widths."""
        self._widest_first = True
        try:
            yield
        finally:
            self._widest_first = False

    def _passed_on(self, name: str) -> Any:
        function = getattr(self._default.contents, name)
        return lambda _, *arguments: function(self._default, *arguments)

    def _map_font(self, _: Any, weight: int, is_italic: int, charset: int, pitch: int, name: Any, is_exact: Any) -> Any:
        self.requests += 1
        by_charset = charset == _SYMBOL_CHARSET or charset in _CJK_CHARSETS
        wanted = ctypes.string_at(name).decode("latin-1")
        family = _family(wanted)
        font = None
        if by_charset:
            font = self._default.contents.MapFont(self._default, weight, is_italic, charset, pitch, name, is_exact)
        if font or charset == _SYMBOL_CHARSET or family.startswith(_SYMBOLS):
            return font
        bold = weight >= _BOLD_WEIGHT or "bold" in wanted.lower()
        italic = bool(is_italic) or "italic" in wanted.lower() or "oblique" in wanted.lower()
        faces = (_spaced(wanted), *_stand_ins(family, pitch))
        if self._widest_first:
            faces = (*_WIDEST, *faces)
        return next((found for face in faces if (found := self.find(face, bold=bold, italic=italic))), None)

    def _font_data(self, _: Any, font: Any, table: int, buffer: Any, size: int) -> int:
        length: int = self._default.contents.GetFontData(self._default, font, table, buffer, size)
        if buffer and table == 0 and length <= min(size, _MAX_FONT_BYTES):
            _hide_mac_encoding((ctypes.c_ubyte * length).from_address(ctypes.addressof(buffer.contents)))
        return length


@cache
def system_fonts() -> SystemFonts:
    """Make PDFium use the system's fonts, from now on in this process. Call it before a PDF is opened."""
    fonts = SystemFonts()
    # PDFium looks for fonts when it first needs one.
    document = pdfium.PdfDocument.new()
    pdfium_c.FPDFFont_Close(pdfium_c.FPDFText_LoadStandardFont(document, b"Helvetica"))
    document.close()
    return fonts


def missing_fonts() -> dict[str, str]:
    """Return the recommended fonts that are not installed, with the Debian package of each."""
    fonts = system_fonts()
    return {face: package for face, package in _PACKAGES.items() if not fonts.find(face)}


def packages_of(fonts: dict[str, str]) -> str:
    """Return the packages of `missing_fonts`, for a command line."""
    return " ".join(dict.fromkeys(fonts.values()))


def _family(name: str) -> str:
    """Return a font's family in small letters: "arial" for ABCDEF+Arial,Bold, Arial-BoldMT and so on."""
    return re.split("[,-]", name.partition("+")[2] or name)[0].replace(" ", "").lower()


def _spaced(name: str) -> str:
    """Return the name under which a system would have the font: "Segoe UI" for SegoeUI-Bold."""
    family = re.split("[,-]", name.partition("+")[2] or name)[0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", family)


def _stand_ins(family: str, pitch: int) -> tuple[str, ...]:
    for beginning, faces in _FAMILIES.items():
        if family.startswith(beginning):
            return faces
    return _MONO if pitch & _FIXED_PITCH else _SERIF if pitch & _ROMAN else _SANS


def _hide_mac_encoding(font: Any) -> None:
    """Hide a TrueType file's table for Mac OS, in place.

    PDFium would read the codes of a TrueType font that is not embedded by this table, if it has one, and ignore the
    encoding that the PDF gives.
    """
    try:
        tables = struct.unpack_from(">H", font, 4)[0]
        for index in range(tables):
            tag, _, offset, _ = struct.unpack_from(">4sIII", font, 12 + 16 * index)
            if tag == b"cmap":
                for record in range(struct.unpack_from(">H", font, offset + 2)[0]):
                    position = offset + 4 + 8 * record
                    if struct.unpack_from(">H", font, position)[0] == _MAC:
                        struct.pack_into(">H", font, position, _NO_PLATFORM)
                return
    except struct.error:  # a damaged file, which FreeType refuses
        return


def main() -> int:
    missing = missing_fonts()
    if missing:
        print(f"fonts not found: {', '.join(missing)}; install {packages_of(missing)}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
