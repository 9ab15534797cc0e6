"""How far a PDF's fonts move on with each character, as the fonts' dictionaries say; see ISO 32000-2, 9.6 and 9.7."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pikepdf import Array, Dictionary, Name

MAX_WIDTHS = 500_000
"""Most widths of a page's fonts that are read. A font with 65,536 characters has as many."""

_UNKNOWN = 1.0  # ems, which hardly any character exceeds
_BYTES = 256


@dataclass(frozen=True)
class FontWidths:
    """Widths by character code, in text sizes. A code has one byte, or two."""

    known: dict[int, float] = field(default_factory=dict)
    others: float = _UNKNOWN
    two_bytes: bool = False
    vertical: bool = False

    def measure(self, text: bytes) -> tuple[float, int]:
        """Return the length of a text, and its characters. Both are too large, not too small, if the font does not tell."""
        codes = struct.unpack(f">{len(text) // 2}H", text[: len(text) // 2 * 2]) if self.two_bytes else text
        return sum(self.known.get(code, self.others) for code in codes), len(codes)


class Fonts:
    """The widths of a page's fonts, each read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[int, int], FontWidths] = {}
        self._left = MAX_WIDTHS

    def widths(self, font: Any) -> FontWidths:
        if not isinstance(font, Dictionary):
            return FontWidths()
        if not font.is_indirect:
            return self._widths(font)
        if font.objgen not in self._read:
            self._read[font.objgen] = self._widths(font)
        return self._read[font.objgen]

    def _widths(self, font: Dictionary) -> FontWidths:
        with suppress(AttributeError, TypeError, ValueError, ArithmeticError, LookupError):
            return self._of_composite(font) if font.get("/Subtype") == "/Type0" else self._of_simple(font)
        return FontWidths()

    def _of_simple(self, font: Dictionary) -> FontWidths:
        widths, descriptor = font.get("/Widths"), font.get("/FontDescriptor")
        if not isinstance(widths, Array) or not self._may_read(len(widths)):
            return FontWidths()
        scale = abs(float(font.FontMatrix[0])) if font.get("/Subtype") == "/Type3" else 1 / 1000
        first = int(font.get("/FirstChar", 0))
        missing = descriptor.get("/MissingWidth", 0) if isinstance(descriptor, Dictionary) else 0
        known = {first + index: scale * float(width) for index, width in enumerate(widths) if index < _BYTES}
        return FontWidths(known, scale * float(missing))

    def _of_composite(self, font: Dictionary) -> FontWidths:
        encoding, inner = font.get("/Encoding"), font.DescendantFonts[0]
        vertical = isinstance(encoding, Name) and str(encoding).endswith("-V")
        if encoding not in ("/Identity-H", "/Identity-V"):
            return FontWidths(vertical=vertical)  # at least a byte for a character
        if vertical:
            return FontWidths(two_bytes=True, vertical=True)
        others = float(inner.get("/DW", 1000)) / 1000
        widths = inner.get("/W")
        known: dict[int, float] = {}
        position = 0
        while isinstance(widths, Array) and position + 1 < len(widths):
            first, second = int(widths[position]), widths[position + 1]
            listed = isinstance(second, Array)
            count = len(second) if listed else int(second) - first + 1
            if not self._may_read(count):
                return FontWidths(two_bytes=True)
            several = second if listed else [widths[position + 2]] * count
            known.update((first + index, float(width) / 1000) for index, width in enumerate(several))
            position += 2 if listed else 3
        return FontWidths(known, others, two_bytes=True)

    def _may_read(self, count: int) -> bool:
        self._left -= max(count, 0)
        return self._left >= 0
