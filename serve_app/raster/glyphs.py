"""Finds letters that a page shows in its reader's fonts only: the PDF does not embed the font, and nothing stands in."""

from __future__ import annotations

import ctypes
from itertools import islice
from typing import Any

import pypdfium2.raw as pdfium_c

from serve_app.raster.visibility import INVISIBLE_MODES, address

MAX_NAME_BYTES = 128

MAX_CHARACTERS = 50_000

MAX_LONE_LETTERS, SPACES = 100, 5
"""Text objects checked on a page without characters, and how many of them may be spaces."""

LAST_OF_LATIN_1 = 0xFF
"""PDFium's built-in fonts have the letters up to this one."""


class UndrawnGlyphs:
    """The letters of a text page that cannot be drawn."""

    def __init__(self, textpage: Any) -> None:
        self._textpage = textpage
        self._fonts: dict[int, Any] = {}  # by address of the text object; None for a font that is embedded or not shown
        self._can_draw: dict[tuple[int, int], bool] = {}  # by address of the font, and character

    def font_of(self, index: int) -> str | None:
        """Return the name of the font that lacks this character; None if the character can be drawn."""
        text_object = pdfium_c.FPDFText_GetTextObject(self._textpage, index)
        font = self._font_of(text_object) if text_object else None
        if font is None:
            return None
        code = pdfium_c.FPDFText_GetUnicode(self._textpage, index)
        if pdfium_c.FPDFText_HasUnicodeMapError(self._textpage, index) == 1:
            return _name(font)  # a number of a glyph in the font that is missing
        if code <= LAST_OF_LATIN_1 or not _character(code).isalnum():
            return None
        key = address(font), code
        if key not in self._can_draw:
            self._can_draw[key] = bool(pdfium_c.FPDFFont_GetGlyphPath(font, code, 1.0))
        return None if self._can_draw[key] else _name(font)

    def _font_of(self, text_object: Any) -> Any:
        key = address(text_object)
        if key not in self._fonts:
            self._fonts[key] = _missable_font(text_object)
        return self._fonts[key]


def undrawn_fonts(page: Any) -> list[str]:
    """Return the names of the page's fonts that lack letters, in order of appearance. Takes 10 ms for 3,000 letters."""
    textpage = page.get_textpage()
    try:
        glyphs = UndrawnGlyphs(textpage)
        count = textpage.count_chars()
        names = [glyphs.font_of(index) for index in range(min(count, MAX_CHARACTERS))]
    finally:
        textpage.close()
    if count == 0:
        # PDFium leaves a text object of one letter out of the text page, if it cannot draw the letter.
        texts = list(islice(page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT]), MAX_LONE_LETTERS))
        if len(texts) > SPACES:
            names = [_name(font) for text in texts if (font := _missable_font(text))]
    return list(dict.fromkeys(filter(None, names)))


def character_at(textpage: Any, index: int) -> str:
    """Return a character of a text page; U+FFFD for a code beyond Unicode, which fonts with wrong tables give."""
    return _character(pdfium_c.FPDFText_GetUnicode(textpage, index))


def _character(code: int) -> str:
    return chr(code) if code <= 0x10FFFF else "\ufffd"


def _missable_font(text_object: Any) -> Any:
    """Return the font of a text object; None if it is embedded, or the text is invisible."""
    font = pdfium_c.FPDFTextObj_GetFont(text_object)
    shown = pdfium_c.FPDFTextObj_GetTextRenderMode(text_object) not in INVISIBLE_MODES
    return font if shown and font and not pdfium_c.FPDFFont_GetIsEmbedded(font) else None


def _name(font: Any) -> str:
    name = ctypes.create_string_buffer(MAX_NAME_BYTES)
    pdfium_c.FPDFFont_GetBaseFontName(font, name, MAX_NAME_BYTES)
    return "".join(filter(str.isprintable, name.value.decode("utf-8", "ignore"))) or "unnamed"
