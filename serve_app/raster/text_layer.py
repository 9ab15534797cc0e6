"""Reads the text layer of a PDF page, if it matches what the page shows.

Many text layers do not: the invisible OCR layer of a scan, fonts whose codes mean other letters, pictures with words
that the layer lacks. Such a page is recognized instead: the layer is faster but must never give a worse result.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import pypdfium2.raw as pdfium_c

from serve_app.document import Block, Box, ErrorInfo, Word
from serve_app.raster.glyphs import UndrawnGlyphs, character_at
from serve_app.raster.pictures import pictures_of_text
from serve_app.raster.text_layout import FloatBox, Glyph, group_paragraphs, group_words
from serve_app.raster.text_quality import is_broken, is_gibberish
from serve_app.raster.visibility import (
    address,
    are_drawn,
    are_visible,
    draw_preview,
    has_text_in_annotations,
    scan_contents,
)

MIN_CHARACTERS = 20
"""With less text, a page is probably a drawing or a stamped scan. If it is not, recognizing it is fast."""

MAX_CHARACTERS = 50_000
"""A dense newspaper page has 20,000. A page with more than this is a map or an attack, and slow to process."""

MAX_HIDDEN_SHARE = 0.1
"""Largest share of invisible characters. With more, the text is the layer of a scan, perhaps of part of the page."""

MAX_BROKEN_SHARE = 0.03
"""Largest share of undefined characters. Stray bullets and arrows are fewer; a font without a map to Unicode has more."""

MAX_TILTED_SHARE = 0.1
"""Largest share of tilted characters. Fewer tilted characters are a watermark, which is dropped."""

PICTURE_SHARE, CHARACTERS_BESIDE_PICTURE = 0.5, 300
"""If pictures cover at least this share of a page, it needs at least this many characters: otherwise the text may be in
the pictures."""

TILT_DEGREES = 10
"""Tilt from the nearest right angle above which text counts as tilted: skewed scans are below, watermarks above."""


@dataclass(frozen=True)
class TextPage:
    """The text layer of a page, in pixels of the page drawn at `dpi`.

    `rotation`: clockwise rotation of most of the text in degrees, as displayed: 0, 90, 180 or 270. `pictures` may have
    text of their own, which only recognition finds.
    """

    width: int
    height: int
    dpi: int
    rotation: int
    blocks: list[Block]
    warnings: tuple[ErrorInfo, ...] = ()
    pictures: tuple[Box, ...] = ()


@dataclass(frozen=True)
class VisibleText:
    """The words of a page that can be seen, as `group_words` gives them, and the counts of characters.

    `shown`, `hidden` and `broken`: characters in the words, invisible ones, and those without a meaning. `tilted` are the
    characters that run neither across nor along the page. `pictures` may have text of their own. `annotated`: the page has
    or had notes or fields, which may have text.
    """

    words: list[tuple[Word, FloatBox, int]]
    pictures: tuple[Box, ...]
    picture_share: float
    shown: int
    hidden: int
    broken: int
    tilted: tuple[Word, ...]
    annotated: bool = False

    @property
    def is_trusted(self) -> bool:
        """Whether it is the text of the page, if no annotation has more."""
        return not (
            self.shown < (CHARACTERS_BESIDE_PICTURE if self.picture_share >= PICTURE_SHARE else MIN_CHARACTERS)
            or self.hidden > MAX_HIDDEN_SHARE * (self.shown + self.hidden)
            or len(self.tilted) > MAX_TILTED_SHARE * self.shown
            or self.is_garbled
        )

    @property
    def is_garbled(self) -> bool:
        return self.broken > MAX_BROKEN_SHARE * self.shown or is_gibberish([word.text for word, _, _ in self.words])


def read_text_layer(page: Any, *, width: int, height: int, dpi: int) -> TextPage | None:
    """Read the text layer of a `pypdfium2.PdfPage` as blocks of the page drawn at `width` x `height` pixels.

    Blocks are paragraphs with the label "text" and a newline between lines, in the reading order of
    `text_layout.group_paragraphs`. Returns None if the layer is missing or untrustworthy.
    """
    if has_text_in_annotations(page):
        return None
    text = read_visible_text(page, width=width, height=height, dpi=dpi, least=MIN_CHARACTERS)
    if text is None or not text.is_trusted:
        return None
    turns = Counter(turned for word, _, turned in text.words for _ in word.text)
    rotation = turns.most_common(1)[0][0]
    return TextPage(width, height, dpi, rotation, group_paragraphs(text.words), pictures=text.pictures)


def read_visible_text(page: Any, *, width: int, height: int, dpi: int, least: int = 0) -> VisibleText | None:
    """Return the visible text of a `pypdfium2.PdfPage`, in pixels of the page drawn at `width` x `height` and `dpi`.

    The page shows something: its bounding box is not empty.
    Returns None if the page has too many objects, over MAX_CHARACTERS, or fewer than `least`.
    """
    contents = scan_contents(page)
    if contents is None:
        return None
    transform = _PageTransform(page, width, height)
    textpage = page.get_textpage()
    try:
        if not least <= textpage.count_chars() <= MAX_CHARACTERS:
            return None
        preview = draw_preview(page, width, dpi)
        texts = [text for text, _ in contents.texts]
        drawn = [True] * len(texts)
        if contents.has_cover:
            boxes = [_whole_pixels(transform.box(*box), width, height) for _, box in contents.texts]
            drawn = are_drawn(page, preview, texts, boxes, width, height, dpi)
        visible_text = {address(text.raw) for text in compress(texts, drawn)}
        characters = _characters(textpage, visible_text, transform)
    finally:
        textpage.close()
    words = list(group_words(characters.glyphs, width, height))
    visible = are_visible(preview, [word.bbox for word, _, _ in words], width, height)
    visible_words = [
        word
        for word, is_visible in zip(words, visible, strict=True)
        if is_visible or not characters.undrawn.isdisjoint(word[0].text)
    ]
    shown = sum(len(word.text) for word, _, _ in visible_words)
    hidden = characters.hidden + sum(len(word.text) for word, _, _ in words) - shown
    pictures = [_whole_pixels(transform.box(*box), width, height) for box in contents.pictures]
    known = [word.bbox for word, _, _ in words]
    return VisibleText(
        visible_words,
        tuple(pictures_of_text(preview, pictures, known, width, height)),
        contents.picture_share,
        shown,
        hidden,
        characters.broken,
        tuple(Word(text=text, bbox=_whole_pixels(box, width, height)) for text, box in characters.tilted),
    )


def _whole_pixels(box: FloatBox, width: int, height: int) -> Box:
    left, top, right, bottom = box
    return (
        max(math.floor(left), 0),
        max(math.floor(top), 0),
        min(math.ceil(right), width),
        min(math.ceil(bottom), height),
    )


class _PageTransform:
    """Maps boxes of a PDF page, in points from the bottom left, to pixels of the drawn page."""

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
    """`glyphs` of a page, with None for a space, and the counts of invisible and undefined characters.

    `tilted` are the other characters, with the boxes of their ink. `undrawn` are characters that the page shows where its fonts are installed.
    """

    glyphs: list[Glyph | None]
    undrawn: set[str] = field(default_factory=set)
    tilted: list[tuple[str, FloatBox]] = field(default_factory=list)
    hidden: int = 0
    broken: int = 0


def _characters(textpage: Any, visible_text: set[int], transform: _PageTransform) -> _Characters:
    found = _Characters([])
    undrawn = UndrawnGlyphs(textpage)
    for index in range(textpage.count_chars()):
        found.glyphs.append(None)
        text = character_at(textpage, index)
        if pdfium_c.FPDFText_IsHyphen(textpage, index) == 1 or text == "\u00ad":
            text = "-"  # soft hyphens are visible at the end of a line
        if text.isspace() or pdfium_c.FPDFText_IsGenerated(textpage, index) == 1 or unicodedata.category(text) == "Cf":
            continue
        body = transform.box(*textpage.get_charbox(index, loose=True))
        ink = transform.box(*textpage.get_charbox(index))
        if not transform.on_page(body):
            continue
        if address(pdfium_c.FPDFText_GetTextObject(textpage, index)) not in visible_text:
            found.hidden += 1
            continue
        angle = math.degrees(pdfium_c.FPDFText_GetCharAngle(textpage, index))
        if TILT_DEGREES < angle % 90 < 90 - TILT_DEGREES:
            found.tilted.append(("\ufffd" if is_broken(text) else text, ink))
            continue
        # PDFium gives a character beyond 16 bits as two surrogates, which are not broken.
        half = "\ud800" <= text <= "\udfff"
        found.broken += pdfium_c.FPDFText_HasUnicodeMapError(textpage, index) == 1 or (is_broken(text) and not half)
        if undrawn.font_of(index):
            found.undrawn.add(text)
        if ink[0] == ink[2] or ink[1] == ink[3]:  # the font gives no ink box
            ink = body
        found.glyphs[-1] = Glyph(text, ink, body, (round(angle / 90) * 90 + transform.rotation) % 360)
    return found
