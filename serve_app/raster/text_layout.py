"""Groups glyphs into words, lines and paragraphs.

Coordinates are pixels of the drawn page, with the origin at the top left.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from serve_app.document import Block, Word
from serve_app.raster.right_to_left import (
    has_right_to_left,
    number_as_read,
    reading_order,
    runs_right_to_left,
    without_presentation_forms,
)

FloatBox = tuple[float, float, float, float]

_Number = TypeVar("_Number", int, float)

# The constants below are multiples of the line height, from the font's ascent to its descent.

NEW_WORD_GAP = 0.6
"""Gap between glyphs that separates words even without a space: a tab, or the next column."""

SAME_WORD_GAP = 0.1
"""Gap up to which pieces of a line from right to left are one word, such as a number and the letter before it."""

NEW_LINE_GAP = 2.5
"""Gap between words that separates lines: the gutter between columns, or table cells."""

SAME_LINE_OVERLAP = 0.4
"""Least vertical overlap of neighbours on one line, as a share of the lower one: subscripts overlap less than letters."""

NEW_PARAGRAPH_GAP = 0.7
"""Blank space above a line that always begins a paragraph. With a line spacing of 1.5 it is 0.5."""

OTHER_SPACING = 0.25
"""Extra blank space, compared with the lines above, that begins a paragraph."""

INDENT = 0.8
"""Least indent of a paragraph's first line."""

SAME_SIZE = 1.25
"""Largest ratio of line heights within a paragraph: headings are larger than their text."""


@dataclass(frozen=True)
class Glyph:
    """A character with its boxes: `ink` bounds the visible shape, `body` is the box that the font reserves.

    `turned`: clockwise rotation in degrees, as displayed: 0, 90, 180 or 270.
    """

    text: str
    ink: FloatBox
    body: FloatBox
    turned: int


@dataclass(frozen=True)
class _Line:
    """One or more words on a line. `body` is on the page turned so that the words are upright."""

    words: tuple[Word, ...]
    body: FloatBox
    turned: int

    right_to_left: bool = False

    @property
    def height(self) -> float:
        return self.body[3] - self.body[1]

    @property
    def extent(self) -> tuple[float, float]:
        """Where the line begins and ends, growing in its direction."""
        return (-self.body[2], -self.body[0]) if self.right_to_left else (self.body[0], self.body[2])


def group_words(glyphs: Iterable[Glyph | None], width: int, height: int) -> Iterator[tuple[Word, FloatBox, int]]:
    """Yield words with whole-pixel boxes on a page of `width` x `height`, their bodies and their rotation.

    In `glyphs`, None is a space.
    """
    word: list[Glyph] = []
    for glyph in (*glyphs, None):
        if word and (glyph is None or _are_apart(word[-1], glyph)):
            text = "".join(part.text for part in word)
            # Joins surrogate pairs, which PDFium splits, and combining accents, which Apple's PDFs split.
            text = unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            left, top, right, bottom = _union([part.ink for part in word])
            text = without_presentation_forms(text)
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
    """Group words, given in document order, into paragraphs.

    On a page with several columns, paragraphs keep the document order, since columns are written one after another.
    On a page with one column they are sorted from top to bottom, which also puts headers and footers in position.
    """
    single = [_Line((word,), _upright(body, turned), turned) for word, body, turned in words]
    lines = [line for parts in _word_rows(single) for line in _lines(parts)]
    if _is_one_column([[line] for line in lines]):
        lines.sort(key=lambda line: line.body[1])
    elif sum(below.body[1] < above.body[1] for above, below in itertools.pairwise(lines)) > len(lines) / 2:
        lines.reverse()  # PDFium reverses the lines of a page turned by 90 degrees
    paragraphs = _paragraphs(lines)
    if _is_one_column(paragraphs):
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


def _word_rows(words: Iterable[_Line]) -> list[list[_Line]]:
    """Group words that continue a line."""
    rows: list[list[_Line]] = []
    right_to_left = False  # whether a word of the last row is
    for word in words:
        is_right_to_left = has_right_to_left(word.words[0].text)
        if rows and _continues_line(rows[-1][-1], word, right_to_left or is_right_to_left):
            rows[-1].append(word)
            right_to_left = right_to_left or is_right_to_left
        else:
            rows.append([word])
            right_to_left = is_right_to_left
    return rows


def _paragraphs(lines: Iterable[_Line]) -> list[list[_Line]]:
    paragraphs: list[list[_Line]] = []
    for line in lines:
        if paragraphs and _continues_paragraph(paragraphs[-1], line):
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
    return paragraphs


def _split_at_gaps(parts: Iterable[_Line], widest: float) -> list[list[_Line]]:
    """Split parts, given from left to right, where there is a gap of more than `widest` line heights."""
    runs: list[list[_Line]] = []
    end = -math.inf
    for part in parts:
        if runs and part.body[0] - end <= widest * max(runs[-1][-1].height, part.height):
            runs[-1].append(part)
            end = max(end, part.body[2])
        else:
            runs.append([part])
            end = part.body[2]
    return runs


def _lines(parts: Sequence[_Line]) -> Iterator[_Line]:
    """Join words to a line. With words from right to left, it may be several, whose words have come out of order."""
    texts = [word.text for part in parts for word in part.words]
    if not any(map(has_right_to_left, texts)):
        yield _joined(parts, right_to_left=False)
        return
    right_to_left = runs_right_to_left(texts)
    by_position = sorted(parts, key=lambda part: part.body[0])
    for line in _split_at_gaps(by_position, NEW_LINE_GAP):
        words = _split_at_gaps(line, SAME_WORD_GAP)
        whole = [_whole_word(pieces, right_to_left) for pieces in words]
        ordered = reading_order([(word.words[0].text, word) for word in whole], right_to_left)
        yield _joined(ordered, right_to_left=right_to_left)


def _whole_word(pieces: Sequence[_Line], right_to_left: bool) -> _Line:
    ordered = reading_order([(piece.words[0].text, piece) for piece in pieces], right_to_left)
    texts = [piece.words[0].text for piece in ordered]
    text = "".join(map(number_as_read, texts) if right_to_left else texts)
    word = Word(text=text, bbox=_union([piece.words[0].bbox for piece in pieces]))
    return _Line((word,), _union([piece.body for piece in pieces]), pieces[0].turned)


def _joined(parts: Sequence[_Line], *, right_to_left: bool) -> _Line:
    words = tuple(word for part in parts for word in part.words)
    return _Line(words, _union([part.body for part in parts]), parts[0].turned, right_to_left)


def _are_apart(before: Glyph, glyph: Glyph) -> bool:
    if before.turned != glyph.turned:
        return True
    boxes = _upright(before.body, before.turned), _upright(glyph.body, glyph.turned)
    if has_right_to_left(before.text) or has_right_to_left(glyph.text):
        boxes = _mirrored(boxes[0]), _mirrored(boxes[1])
    return not _is_beside(*boxes, NEW_WORD_GAP)


def _mirrored(box: FloatBox) -> FloatBox:
    return -box[2], box[1], -box[0], box[3]


def _continues_line(last: _Line, word: _Line, right_to_left: bool) -> bool:
    """Whether a word continues the line of the `last` one. `right_to_left`: a word of the line is from right to left."""
    if last.turned != word.turned:
        return False
    if right_to_left:
        # The next word may be anywhere on the line.
        overlap = min(last.body[3], word.body[3]) - max(last.body[1], word.body[1])
        return overlap >= SAME_LINE_OVERLAP * min(last.height, word.height)
    return _is_beside(last.body, word.body, NEW_LINE_GAP)


def _is_beside(before: FloatBox, after: FloatBox, widest_gap: float) -> bool:
    """Whether `after` continues the line of `before` to the right."""
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
    # Indented where it begins but not where it ends: the first line of a paragraph, not a line of a centred title.
    (begin, end), (last_begin, last_end) = line.extent, last.extent
    indented = begin - last_begin > INDENT * low and line.right_to_left == last.right_to_left
    return not (indented and end >= last_end - low)


def _is_one_column(paragraphs: Sequence[Sequence[_Line]]) -> bool:
    if len({paragraph[0].turned for paragraph in paragraphs}) > 1:
        return False
    lowest = -math.inf
    for paragraph in sorted(paragraphs, key=lambda paragraph: paragraph[0].body[1]):
        if paragraph[0].body[1] < lowest - paragraph[0].height / 2:
            return False
        lowest = max(lowest, paragraph[-1].body[3])
    return True


def _upright(box: FloatBox, turned: int) -> FloatBox:
    """Return the box on the page turned so that its text is upright."""
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
