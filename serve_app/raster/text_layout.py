"""Glyphs with their places, as words, lines and paragraphs.

Coordinates are pixels of the page as it is drawn, origin top left.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from serve_app.document import Block, Word

FloatBox = tuple[float, float, float, float]

_Number = TypeVar("_Number", int, float)

# All of these in heights of the line, from the font's ascent to its descent.

NEW_WORD_GAP = 0.6
"""Between glyphs that make two words even without a space: a tab, or the next column."""

NEW_LINE_GAP = 2.5
"""Between words that make two lines: the gutter of columns, or cells of a table."""

SAME_LINE_OVERLAP = 0.4
"""How much of the lower of two glyphs lies beside the other: an index less than a letter."""

NEW_PARAGRAPH_GAP = 0.7
"""Blank space over a line that begins a paragraph, whatever the spacing: that of one and a half lines is 0.5."""

OTHER_SPACING = 0.25
"""By how much more than between the lines above it there must be, to begin a paragraph."""

INDENT = 0.8
"""How far the first line of a paragraph is moved in."""

SAME_SIZE = 1.25
"""How many times as high one line of a paragraph may be as the next: a heading is in larger type than its text."""


@dataclass(frozen=True)
class Glyph:
    """A character and its place: `ink` is what is black of it, `body` the room that its font gives it.

    `turned`: degrees clockwise from upright, as seen: 0, 90, 180 or 270.
    """

    text: str
    ink: FloatBox
    body: FloatBox
    turned: int


@dataclass(frozen=True)
class _Line:
    """Words beside each other, or one word; `body` as if the page were turned so that they are upright."""

    words: tuple[Word, ...]
    body: FloatBox
    turned: int

    @property
    def height(self) -> float:
        return self.body[3] - self.body[1]


def group_words(glyphs: Iterable[Glyph | None], width: int, height: int) -> Iterator[tuple[Word, FloatBox, int]]:
    """Words in boxes of whole pixels on a page of `width` x `height`, with their bodies and how they are turned.

    None stands for a space.
    """
    word: list[Glyph] = []
    for glyph in (*glyphs, None):
        if word and (glyph is None or _apart(word[-1], glyph)):
            text = "".join(part.text for part in word)
            # The halves of what is beyond 16 bits come one by one, and letters of Apple's without their accents.
            text = unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            left, top, right, bottom = _union([part.ink for part in word])
            box = (
                max(math.floor(left), 0),
                max(math.floor(top), 0),
                min(math.ceil(right), width),
                min(math.ceil(bottom), height),
            )
            yield Word(text=text, bbox=box), _union([part.body for part in word]), word[0].turned
            word = []
        if glyph is not None:
            word.append(glyph)


def group_paragraphs(words: Iterable[tuple[Word, FloatBox, int]]) -> list[Block]:
    """Paragraphs of words that come as the document has them one after another.

    Paragraphs keep that order where some stand side by side, as whoever set the columns wrote them in turn.
    On a page of one column they go from top to bottom, which puts headers and footers in their place.
    """
    single = [_Line((word,), _upright(body, turned), turned) for word, body, turned in words]
    lines = [
        _Line(tuple(word for part in parts for word in part.words), _union([p.body for p in parts]), parts[0].turned)
        for parts in _gather(single, _continues_line)
    ]
    if _one_column([[line] for line in lines]):
        lines.sort(key=lambda line: line.body[1])
    elif sum(below.body[1] < above.body[1] for above, below in itertools.pairwise(lines)) > len(lines) / 2:
        lines.reverse()  # PDFium gives those of a page turned by a quarter from the last to the first
    paragraphs = _gather(lines, _continues_paragraph)
    if _one_column(paragraphs):
        paragraphs.sort(key=lambda paragraph: paragraph[0].body[1])
    return [
        Block(
            label="text",
            text="\n".join(" ".join(word.text for word in line.words) for line in paragraph),
            content=None,
            bbox=_union([word.bbox for line in paragraph for word in line.words]),
            order=order,
            words=[word for line in paragraph for word in line.words],
        )
        for order, paragraph in enumerate(paragraphs)
    ]


def _gather(parts: Sequence[_Line], continues: Callable[[Sequence[_Line], _Line], bool]) -> list[list[_Line]]:
    runs: list[list[_Line]] = []
    for part in parts:
        if runs and continues(runs[-1], part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _apart(before: Glyph, glyph: Glyph) -> bool:
    if before.turned != glyph.turned:
        return True
    return not _beside(_upright(before.body, before.turned), _upright(glyph.body, glyph.turned), NEW_WORD_GAP)


def _continues_line(line: Sequence[_Line], word: _Line) -> bool:
    return line[-1].turned == word.turned and _beside(line[-1].body, word.body, NEW_LINE_GAP)


def _beside(before: FloatBox, after: FloatBox, widest_gap: float) -> bool:
    """Whether `after` goes on to the right of `before` on the same line."""
    heights = before[3] - before[1], after[3] - after[1]
    overlap = min(before[3], after[3]) - max(before[1], after[1])
    gap = after[0] - before[2]
    return (
        overlap >= SAME_LINE_OVERLAP * min(heights)
        and gap <= widest_gap * max(heights)
        and after[0] >= before[0] - 0.5 * max(heights)  # kerning and accents step back, but no further
    )


def _continues_paragraph(above: Sequence[_Line], line: _Line) -> bool:
    last = above[-1]
    low, high = sorted((last.height, line.height))
    if last.turned != line.turned or high > SAME_SIZE * low or line.body[1] <= last.body[1]:
        return False
    spacing = line.body[1] - last.body[3]
    usual = last.body[1] - above[-2].body[3] if len(above) > 1 else NEW_PARAGRAPH_GAP * low
    if spacing > min(NEW_PARAGRAPH_GAP, max(usual / low, 0) + OTHER_SPACING) * low:
        return False
    if min(last.body[2], line.body[2]) <= max(last.body[0], line.body[0]):
        return False
    # Moved in on the left but not on the right: the first line of a paragraph, and not the tip of a centred title.
    indented = line.body[0] - last.body[0] > INDENT * low
    return not (indented and line.body[2] >= last.body[2] - low)


def _one_column(paragraphs: Sequence[Sequence[_Line]]) -> bool:
    if len({paragraph[0].turned for paragraph in paragraphs}) > 1:
        return False
    lowest = -math.inf
    for paragraph in sorted(paragraphs, key=lambda paragraph: paragraph[0].body[1]):
        if paragraph[0].body[1] < lowest - paragraph[0].height / 2:
            return False
        lowest = max(lowest, paragraph[-1].body[3])
    return True


def _upright(box: FloatBox, turned: int) -> FloatBox:
    """The box on the page turned back by as much as its text is."""
    left, top, right, bottom = box
    match turned:
        case 90:
            return top, -right, bottom, -left
        case 180:
            return -right, -bottom, -left, -top
        case 270:
            return -bottom, left, -top, right
        case _:
            return box


def _union(boxes: Sequence[tuple[_Number, _Number, _Number, _Number]]) -> tuple[_Number, _Number, _Number, _Number]:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
