"""Writes a page's text as an invisible PDF content stream: each word where it was read, in reading order.

Text is laid out in the reading frame: the page's picture turned so that its text stands upright, in pixels, origin top
left. One matrix then maps that frame to the PDF page, so nothing else depends on the rotation or on the skew.

Poppler finds lines by the height of their words above the page's lower edge, so it scrambles crooked ones; and it mixes up
the blocks of pages that lie on their side. Such a page therefore has its text twice, for two kinds of readers. Those that
know ActualText (poppler, MuPDF) read it where it would be if the page were straight and upright; it says that the other
text means nothing. Those that do not (pdf.js, PDFium for empty ones, pypdf) read the text where the words are, along the
lines, and nothing but spaces elsewhere.
"""

from __future__ import annotations

import math
import re
import unicodedata
from codecs import BOM_UTF16_BE
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from serve_app.document import Block, Box, Page, Word
from serve_app.outputs.glyphless_font import ADVANCE, DESCENT, PLACES, InvisibleFont
from serve_app.outputs.lines import split_at_line_breaks
from serve_app.outputs.reading_frame import Matrix, PageFrame, ReadingFrame, multiply, pdf_number, turning
from serve_app.outputs.straightened import Turn

WORD_GAP = 0.2
"""Least space between words, in line heights. PDF readers join words that are closer."""

ALIKE = 1.4
"""Greatest ratio of the heights of lines that get one size. PDF readers split a paragraph where the size changes, and
find no columns in the pieces."""

LINE_SPACING = 1.4
"""Greatest distance between lines of a paragraph, in text sizes. PDF readers split a paragraph where lines are farther
apart, so text with wider spacing is made larger than its letters, by a factor of ALIKE at most."""

SKEWED = 1.5
"""A line this many times as high as its highest word is skewed. Each of its words gets its own baseline."""

NARROWEST = 1 / 6
"""Least width of a character, in text sizes. PDF readers drop the second of two equal characters if they are narrower,
as in words that run upwards, so such words get a smaller size than their boxes."""

_STANDING = re.compile(
    r"[«„“\"'‘(]*[A-IK-PR-Za-fhik-or-xz0-9АБВГЕЁЖЗИЙКЛМНОПРСТУФХЧШЪЫЬЭЮЯабвгеёжзийклмнопстхчшъыьэюя]+[.:!?»”\"'’%-]*"
)
"""A word without descenders: the bottom of its box is the baseline."""

_CHARACTER_WIDTH = ADVANCE / 1000
_NARROW = 20  # percent; a space that fits into WORD_GAP
_SIDES = {"L": "L", "EN": "L", "AN": "L", "R": "R", "AL": "R"}  # by bidirectional class; others are neutral


@dataclass(frozen=True)
class _Run:
    """A piece of text and its box, in pixels of the reading frame. `bottom` is below the descenders."""

    text: str
    left: float
    bottom: float
    width: float
    height: float

    @property
    def size(self) -> float:
        """The text's size, which may be less than the box's height."""
        return min(self.height, self.width / len(self.text) / NARROWEST)

    @property
    def stretch(self) -> float:
        """The width of the characters, in percent of the font's."""
        return 100 * self.width / (len(self.text) * _CHARACTER_WIDTH * self.size)

    @property
    def baseline(self) -> float:
        return self.bottom + DESCENT / 1000 * self.size


def text_content(page: Page, frame: PageFrame, font: InvisibleFont, font_name: str, turn: Turn | None = None) -> bytes:
    """Return the content stream of the page's text; b"" if the page has no text or no area.

    The stream restores the graphics state. `font_name` is the font's name in the page's resources, with its slash. With
    `turn`, the text is that of the straightened page.
    """
    if min(page.width, page.height, frame.width, frame.height) <= 0:
        return b""
    reading = ReadingFrame(page)
    runs = list(_page_runs(page, reading))
    if not runs:
        return b""
    matrix, text = reading.matrix(frame), _Writer(font, font_name, reading.height)
    if turn is not None:
        return _text_object(multiply(matrix, turn.matrix), text.shown(runs))
    if _is_mixed_up(page, reading):
        straight = reading.upright_matrix(frame, _bounds(runs, reading))
    elif reading.skew:
        straight = multiply(_straight(runs, reading), matrix)
    else:
        return _text_object(matrix, text.shown(runs))
    return _text_object(matrix, text.shown_unread(runs)) + _text_object(straight, text.read_unseen(runs))


def _text_object(matrix: Matrix, operators: Iterable[str]) -> bytes:
    """Return text in invisible mode. The operators are in the coordinates that `matrix` maps to user space."""
    return "\n".join([f"q {' '.join(map(pdf_number, matrix))} cm BT 3 Tr", *operators, "ET Q\n"]).encode()


class _Writer:
    """Writes runs as operators that show text, in the reading frame with y upwards from its lower edge, at `height`."""

    def __init__(self, font: InvisibleFont, font_name: str, height: float) -> None:
        self._font, self._font_name, self._height = font, font_name, height

    def shown(self, runs: Iterable[_Run]) -> Iterator[str]:
        for run, change in self._sizes(runs, self._font_name):
            # The space separates this run from the next one.
            yield f"{change}{pdf_number(run.stretch)} Tz {self._place(run)} {self._font.encode(run.text + ' ')} Tj"

    def shown_unread(self, runs: Sequence[_Run]) -> Iterator[str]:
        """Write runs without meaning for readers that know ActualText; others cannot tell them from `shown`.

        All are stretched alike, and fit their boxes by their size: pdf.js takes crooked text that is stretched otherwise for
        another line.
        """
        stretch = 100 * sum(run.width for run in runs) / sum(100 * run.width / run.stretch for run in runs)
        yield f"{pdf_number(stretch)} Tz"
        for run in runs:
            yield (
                f"{self._font_name} {pdf_number(run.size * run.stretch / stretch)} Tf /Span <</ActualText <>>> BDC"
                f" {self._place(run)} {self._font.encode(run.text + ' ')} Tj EMC"
            )

    def read_unseen(self, runs: Iterable[_Run]) -> Iterator[str]:
        """Write runs as spaces with the text as their ActualText, each followed by a space between words."""
        space = self._font.encode_place()
        for run, change in self._sizes(runs, self._font_name + PLACES):
            text = (BOM_UTF16_BE + run.text.encode("utf-16-be")).hex()
            yield (
                f"{change}/Span <</ActualText <{text}>>> BDC {pdf_number(run.stretch * len(run.text))} Tz"
                f" {self._place(run)} {space} Tj EMC {_NARROW} Tz {space} Tj"
            )

    def _sizes(self, runs: Iterable[_Run], font_name: str) -> Iterator[tuple[_Run, str]]:
        """Yield each run with the operator that changes the text's size, if it changes."""
        size = 0.0
        for run in runs:
            yield run, "" if run.size == size else f"{font_name} {pdf_number(run.size)} Tf\n"
            size = run.size

    def _place(self, run: _Run) -> str:
        return f"1 0 0 1 {pdf_number(run.left)} {pdf_number(self._height - run.baseline)} Tm"


def _straight(runs: Sequence[_Run], reading: ReadingFrame) -> Matrix:
    """Return the matrix from a place in the reading frame to the same place of a straight page.

    Text turns around its middle, so that it moves as little as possible, and stays on the page.
    """
    left, bottom, right, top = _bounds(runs, reading)
    return turning(-reading.skew, ((left + right) / 2, (bottom + top) / 2))


def _bounds(runs: Sequence[_Run], reading: ReadingFrame) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of the text, with y upwards from the frame's lower edge."""
    left, right = min(run.left for run in runs), max(run.left + run.width for run in runs)
    top, bottom = min(run.bottom - run.height for run in runs), max(run.bottom for run in runs)
    return left, reading.height - bottom, right, reading.height - top


def _is_mixed_up(page: Page, reading: ReadingFrame) -> bool:
    """Whether poppler mixes up the blocks where they are.

    Where text runs upwards, it reads blocks from the last to the first. Where it runs downwards or upside down, it only
    mixes up blocks that are side by side. See TextBlock::isBeforeByRule2 in poppler/TextOutputDev.cc.
    """
    if not page.rotation:
        return False
    blocks = [block for block in page.blocks if block.words or block.text]
    if len(blocks) > 1 and page.rotation == 270:
        return True
    lefts, rights = zip(*(_across(block, reading) for block in blocks), strict=True)
    return min(rights) <= max(lefts) or any(block.label == "table" for block in blocks)


def _across(block: Block, reading: ReadingFrame) -> tuple[int, int]:
    items: Sequence[Word | Block] = block.words or [block]
    boxes = [reading.box(item) for item in items]
    return min(box[0] for box in boxes), max(box[2] for box in boxes)


def _page_runs(page: Page, reading: ReadingFrame) -> Iterator[_Run]:
    blocks = [(block, _block_lines(block, reading)) for block in sorted(page.blocks, key=lambda block: block.order)]
    heights = sorted(_height(line) for _, lines in blocks for line in lines for _ in line)
    usual = heights[len(heights) // 2] if heights else 0
    for block, lines in blocks:
        if lines:
            yield from _paragraph_runs(lines, usual)
        else:
            yield from _block_runs(block, reading.box(block))


def _block_lines(block: Block, reading: ReadingFrame) -> list[Sequence[Word]]:
    words = [Word(text=text, bbox=reading.box(word)) for word in block.words if (text := _clean(word.text))]
    return list(split_at_line_breaks(words, lambda word: (word.bbox[1], word.bbox[3])))


def _paragraph_runs(lines: Sequence[Sequence[Word]], usual: int) -> Iterator[_Run]:
    """Give lines about as high as `usual`, the page's median, one size, so that PDF readers see one paragraph.

    The measured height and bottom of a line depend on its letters, so they differ within a paragraph.
    """
    sizes = [
        usual if max(_height(line), usual) <= ALIKE * min(_height(line), usual) else _height(line) for line in lines
    ]
    bottoms = [
        _below_baseline(line, size) if len(lines) > 1 else max(word.bbox[3] for word in line)
        for line, size in zip(lines, sizes, strict=True)
    ]
    spacings = sorted(below - above for above, below in pairwise(bottoms) if below > above)
    if spacings:
        widest = spacings[len(spacings) // 2] / LINE_SPACING
        sizes = [round(max(size, min(widest, ALIKE * size))) for size in sizes]
    for line, size, bottom in zip(lines, sizes, bottoms, strict=True):
        yield from _line_runs(line, size, bottom)


def _height(line: Sequence[Word]) -> int:
    return max(1, *(word.bbox[3] - word.bbox[1] for word in line))


def _below_baseline(line: Sequence[Word], size: int) -> int:
    """Return the bottom of the line's descenders, or where they would end if it has none."""
    standing = sorted(word.bbox[3] for word in line if _STANDING.fullmatch(word.text))
    if not standing:
        return max(word.bbox[3] for word in line)
    return standing[len(standing) // 2] - round(DESCENT / 1000 * size)


def _line_runs(line: Sequence[Word], size: int, lowest: int) -> Iterator[_Run]:
    """Give all words one size and, unless the line is skewed, one baseline, so that PDF readers see one line."""
    height = _height(line)
    skewed = lowest - min(word.bbox[1] for word in line) > SKEWED * max(height, size)
    for word, following in zip(line, [*line[1:], None], strict=True):
        left, _, right, bottom = word.bbox
        if following is not None and following.bbox[0] > left:
            right = min(right, math.floor(following.bbox[0] - WORD_GAP * height))
        yield _Run(_visual(word.text), left, bottom if skewed else lowest, max(1, right - left), size)


def _block_runs(block: Block, box: Box) -> Iterator[_Run]:
    """Spread text over its block's box, as the positions of its words are unknown: lines as rows, tabs as columns."""
    left, top, right, bottom = box
    width, height = max(1, right - left), max(1, bottom - top)
    rows = _rows([cells for line in block.text.splitlines() if any(cells := [*map(_clean, line.split("\t"))])], box)
    row_height = height / max(1, len(rows))
    widest = max((_ems(row[0]) for row in rows if len(row) == 1), default=0)
    for index, row in enumerate(rows):
        column_width = width / len(row)
        for column, cell in enumerate(row):
            if cell:
                cell_width = column_width * (1 - WORD_GAP / 2) if len(row) > 1 else width * _ems(cell) / widest
                row_bottom = top + (index + 1) * row_height
                yield _Run(_visual(cell), left + column * column_width, row_bottom, cell_width, row_height)


def _rows(lines: list[list[str]], box: Box) -> list[list[str]]:
    """Break long lines of a single cell, so that the rows fill the box as the text probably did. A line is a list of cells."""
    if not lines:
        return []
    left, top, right, bottom = box
    total = sum(_ems(cell) for line in lines for cell in line)
    # n rows, each height / n high, have room for n * width / (height / n) ems.
    rows = round(math.sqrt(total * max(1, bottom - top) / max(1, right - left)))
    if rows <= len(lines):
        return lines
    capacity = total / rows
    return [row for line in lines for row in ([line] if len(line) > 1 else _break_line(line[0], capacity))]


def _break_line(line: str, capacity: float) -> list[list[str]]:
    """Break a line into even parts of about `capacity` ems, at spaces if possible."""
    count = max(1, round(_ems(line) / capacity))
    parts, start = [], 0
    for number in range(1, count):
        middle = len(line) * number // count
        space = line.rfind(" ", start + 1, middle + 1)
        end = space if space > 0 else max(start + 1, middle)
        parts.append([line[start:end].strip()])
        start = end
    return [part for part in [*parts, [line[start:].strip()]] if part[0]]


def _ems(text: str) -> float:
    """Estimate the width of a text in ems: 1 for a wide East Asian character, 0.5 for any other."""
    return sum(1 if unicodedata.east_asian_width(character) in "WF" else 0.5 for character in text)


def _clean(text: str) -> str:
    """Remove control characters and lone surrogates, which no PDF can map back; reduce white space to single spaces."""
    printable = "".join(" " if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)
    return " ".join(printable.split())


def _visual(text: str) -> str:
    """Return the characters in the order in which they stand on paper, from left to right.

    PDF readers reorder them for reading. This does what the Unicode Bidirectional Algorithm does to a line of plain
    text, except that brackets are not mirrored and numbers run with the Latin text beside them.
    """
    # python-bidi is no replacement: it is LGPL, and poppler then reads "שלום 123 abc" as "שלום abc 123".
    sides = [_SIDES.get(unicodedata.bidirectional(character), "") for character in text]
    if "R" not in sides:
        return text
    base = next(filter(None, sides))
    before = list(accumulate(sides, lambda last, side: side or last, initial=base))[1:]
    after = list(accumulate(reversed(sides), lambda last, side: side or last, initial=base))[:0:-1]
    # Spaces and signs take the direction of both their neighbours if those agree, else the line's.
    resolved = [left if left == right else base for left, right in zip(before, after, strict=True)]
    pieces = []
    for side, run in groupby(zip(resolved, text, strict=True), key=lambda pair: pair[0]):
        piece = "".join(character for _, character in run)
        pieces.append(piece[::-1] if side == "R" else piece)
    return "".join(reversed(pieces) if base == "R" else pieces)
