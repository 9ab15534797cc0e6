"""A PDF page's own text, where it may stand for what is seen on the page.

Many a page has text that is not what it shows: an invisible layer of another OCR's over a scan, letters that
mean others than they look like, none for the words in its pictures. Then there is None, and the page is
recognized like any other: an answer from the layer is quicker, but must not be the worse one.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as pdfium_c

from serve_app.document import Block
from serve_app.raster.text_layout import FloatBox, Glyph, group_paragraphs, group_words
from serve_app.raster.text_quality import is_broken, is_gibberish
from serve_app.raster.visibility import address, are_visible, has_text_in_annotations, scan_contents

MIN_CHARACTERS = 20
"""With less text of its own, a page is rather a drawing or a scan with a stamp on it; and soon recognized if not."""

MAX_CHARACTERS = 50_000
"""A densely set page of a newspaper has 20,000. Beyond this it is a map or an attack, and slow to go through."""

MAX_HIDDEN_SHARE = 0.1
"""Of the characters, those that are not seen. More are the layer of a scan, perhaps of a part of the page."""

MAX_BROKEN_SHARE = 0.03
"""Of the characters, those without a meaning: a stray bullet or arrow, and not a font without its map to Unicode."""

MAX_TILTED_SHARE = 0.1
"""Of the characters, those at a slant. Less is a watermark, and is left out."""

PICTURE_SHARE, CHARACTERS_BESIDE_PICTURE = 0.5, 300
"""A page of which pictures take so much has to have so much text, or what is to be read may be in the pictures."""

TILT_DEGREES = 10
"""From the nearest right angle: a page that was scanned askew is less, a watermark is more."""


@dataclass(frozen=True)
class TextPage:
    """A page's own text, in pixels of the page as it is drawn at `dpi`.

    `rotation`: degrees that most of the text is turned clockwise, as seen: 0, 90, 180 or 270.
    """

    width: int
    height: int
    dpi: int
    rotation: int
    blocks: list[Block]


def read_text_layer(page: Any, *, width: int, height: int, dpi: int) -> TextPage | None:
    """The text of a `pypdfium2.PdfPage`, as blocks for the page drawn in `width` x `height` pixels.

    Blocks are paragraphs with the label "text", lines of which are apart by a newline, in reading order
    as `text_layout.group_paragraphs` has it. None where the layer is missing or not to be trusted.
    """
    if has_text_in_annotations(page):
        return None
    contents = scan_contents(page)
    if contents is None:
        return None
    textpage = page.get_textpage()
    try:
        if not MIN_CHARACTERS <= textpage.count_chars() <= MAX_CHARACTERS:
            return None
        characters = _characters(textpage, contents.visible_text, _Placement(page, width, height))
    finally:
        textpage.close()
    words = list(group_words(characters.glyphs, width, height))
    drawn = are_visible(page, [word.bbox for word, _, _ in words], width, height)
    kept = [word for word, is_drawn in zip(words, drawn, strict=True) if is_drawn]
    shown = sum(len(word.text) for word, _, _ in kept)
    hidden = characters.hidden + sum(len(word.text) for word, _, _ in words) - shown
    if (
        shown < (CHARACTERS_BESIDE_PICTURE if contents.picture_share >= PICTURE_SHARE else MIN_CHARACTERS)
        or hidden > MAX_HIDDEN_SHARE * (shown + hidden)
        or characters.broken > MAX_BROKEN_SHARE * shown
        or characters.tilted > MAX_TILTED_SHARE * shown
        or is_gibberish([word.text for word, _, _ in kept])
    ):
        return None
    turns = Counter(turned for word, _, turned in kept for _ in word.text)
    return TextPage(width, height, dpi, turns.most_common(1)[0][0], group_paragraphs(kept))


class _Placement:
    """Where on the drawn page, in pixels, a place of the PDF's page is, in points from the bottom left."""

    def __init__(self, page: Any, width: int, height: int) -> None:
        self._left, self._bottom, self._right, self._top = page.get_bbox()
        self.rotation: int = page.get_rotation()
        self._width, self._height = width, height

    def box(self, left: float, bottom: float, right: float, top: float) -> FloatBox:
        across, up = self._right - self._left, self._top - self._bottom
        x = (left - self._left) / across, (right - self._left) / across
        y = (self._top - top) / up, (self._top - bottom) / up
        match self.rotation:
            case 90:
                x, y = (1 - y[1], 1 - y[0]), x
            case 180:
                x, y = (1 - x[1], 1 - x[0]), (1 - y[1], 1 - y[0])
            case 270:
                x, y = y, (1 - x[1], 1 - x[0])
        return x[0] * self._width, y[0] * self._height, x[1] * self._width, y[1] * self._height

    def on_page(self, box: FloatBox) -> bool:
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return 0 <= middle[0] <= self._width and 0 <= middle[1] <= self._height


@dataclass
class _Characters:
    """`glyphs`, None for a space, and the numbers of those that are not seen, mean nothing, and are left out."""

    glyphs: list[Glyph | None]
    hidden: int = 0
    broken: int = 0
    tilted: int = 0


def _characters(textpage: Any, visible_text: set[int], placement: _Placement) -> _Characters:
    found = _Characters([])
    for index in range(textpage.count_chars()):
        found.glyphs.append(None)
        text = chr(pdfium_c.FPDFText_GetUnicode(textpage, index))
        if pdfium_c.FPDFText_IsHyphen(textpage, index) == 1 or text == "\u00ad":
            text = "-"  # at the end of a line, where it is seen
        if text.isspace() or pdfium_c.FPDFText_IsGenerated(textpage, index) == 1 or unicodedata.category(text) == "Cf":
            continue
        body = placement.box(*textpage.get_charbox(index, loose=True))
        ink = placement.box(*textpage.get_charbox(index))
        if not placement.on_page(body):
            continue
        if address(pdfium_c.FPDFText_GetTextObject(textpage, index)) not in visible_text:
            found.hidden += 1
            continue
        angle = math.degrees(pdfium_c.FPDFText_GetCharAngle(textpage, index))
        if TILT_DEGREES < angle % 90 < 90 - TILT_DEGREES:
            found.tilted += 1
            continue
        # The halves of a character beyond 16 bits come one by one, and are sound.
        half = "\ud800" <= text <= "\udfff"
        found.broken += pdfium_c.FPDFText_HasUnicodeMapError(textpage, index) == 1 or (is_broken(text) and not half)
        if ink[0] == ink[2] or ink[1] == ink[3]:  # of a font that does not tell
            ink = body
        found.glyphs[-1] = Glyph(text, ink, body, (round(angle / 90) * 90 + placement.rotation) % 360)
    return found
