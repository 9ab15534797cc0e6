"""Lines of text with their places on the page, for outputs that describe the layout (hOCR, ALTO, PAGE-XML)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from serve_app.document import Block, Box, Page, Word
from serve_app.document.characters import xml_text
from serve_app.document.model import Polygon

_DESCENDING = frozenset("gjpqyQ,;()[]{}|/\\_$§@ДЦЩдруфцщ")
"""Letters and signs that reach below the baseline in most typefaces."""

_DESCENT = 0.2
"""Part of a line's height that is below the baseline, if every word of it has a descender."""

AnyWord = TypeVar("AnyWord")

_RIGHT_TO_LEFT = ("R", "AL")


@dataclass(frozen=True)
class PlacedWord:
    """A word whose text is safe in XML. Coordinates are whole pixels within the page."""

    text: str
    box: Box
    polygon: Polygon | None
    confidence: float | None


@dataclass(frozen=True)
class Line:
    """A line of a block. `angle` is that of its text in degrees clockwise: the page's `rotation` and `skew` together.

    `words` are in reading order. They are empty, and `places` is None, where the engine gives a text without places.
    """

    text: str
    words: tuple[PlacedWord, ...] = ()
    angle: float = 0.0

    @cached_property
    def places(self) -> LinePlaces | None:
        return _places(self.words, self.angle) if self.words else None

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words, if all have one."""
        known = [word.confidence for word in self.words if word.confidence is not None]
        return sum(known) / len(known) if known and len(known) == len(self.words) else None


@dataclass(frozen=True)
class LinePlaces:
    """Where a line is: `box`; `polygon` if the line is crooked; `baseline` from its start to its end; `height`.

    The height is measured across the line, in pixels.
    """

    box: Box
    polygon: Polygon | None
    baseline: tuple[tuple[float, float], tuple[float, float]]
    height: float


def blocks_in_order(page: Page) -> list[Block]:
    return sorted(page.blocks, key=lambda block: block.order)


def block_lines(page: Page, block: Block) -> list[Line]:
    """Return the lines of a block. Empty lines, and words without characters that XML allows, are left out."""
    texts = [text for line in xml_text(block.text).split("\n") if (text := line.strip())]
    words = [placed for word in block.words if (placed := _placed(page, word)) is not None]
    if not words:
        return [Line(text) for text in texts]
    angle = page.rotation + page.skew
    return [Line(" ".join(word.text for word in line), tuple(line), angle) for line in _split(words, texts, angle)]


def begins_right_to_left(text: str) -> bool:
    """Whether the first letter that has a direction runs from right to left."""
    sides = (unicodedata.bidirectional(character) for character in text)
    return next((side for side in sides if side in ("L", *_RIGHT_TO_LEFT)), "L") in _RIGHT_TO_LEFT


def within_page(page: Page, box: Box) -> Box:
    """Return the part of the box that is on the page, at least a point of it."""
    (left, top), (right, bottom) = points_within(page, [box[:2], box[2:]])
    return left, top, max(left, right), max(top, bottom)


def points_within(page: Page, polygon: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Return the points in whole pixels, moved onto the page where they are beside it."""
    return [(min(max(round(x), 0), page.width), min(max(round(y), 0), page.height)) for x, y in polygon]


def outline(polygon: Polygon | None) -> Polygon | None:
    """Return the polygon if it has an area."""
    return polygon if polygon and len(polygon) > 2 else None


def corners(box: Box) -> Polygon:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _placed(page: Page, word: Word) -> PlacedWord | None:
    text = " ".join(xml_text(word.text).split())
    return PlacedWord(text, within_page(page, word.bbox), outline(word.polygon), word.confidence) if text else None


def _split(words: Sequence[PlacedWord], texts: Sequence[str], angle: float) -> Iterator[Sequence[PlacedWord]]:
    """Split words into lines as the block's text is split; by their places if the text has other words."""
    counts = [len(text.split()) for text in texts]
    if " ".join(texts).split() == [part for word in words for part in word.text.split()] and sum(counts) == len(words):
        start = 0
        for count in counts:
            yield words[start : start + count]
            start += count
        return
    axes = _Axes(angle)

    def height(word: PlacedWord) -> tuple[float, float]:
        (_, top), (_, bottom) = axes.extent(word)
        return top, bottom

    yield from split_at_line_breaks(words, height)


def split_at_line_breaks(
    words: Sequence[AnyWord], height: Callable[[AnyWord], tuple[float, float]]
) -> Iterator[Sequence[AnyWord]]:
    """Split words in reading order into lines. A word that is not beside the previous one starts a new line.

    `height` returns a word's top and bottom, measured across the lines.
    """
    start = 0
    for index, (before, word) in enumerate(pairwise(words), 1):
        (top, bottom), (other_top, other_bottom) = height(before), height(word)
        shared = min(bottom, other_bottom) - max(top, other_top)
        if 2 * shared <= min(bottom - top, other_bottom - other_top):
            yield words[start:index]
            start = index
    if words:
        yield words[start:]


class _Axes:
    """Coordinates along the lines of text and across them, for text turned by `angle` degrees clockwise."""

    def __init__(self, angle: float) -> None:
        turn = math.radians(angle)
        self._cos, self._sin = math.cos(turn), math.sin(turn)

    def extent(self, word: PlacedWord) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (start, top) and (end, bottom) of a word."""
        points = [
            (x * self._cos + y * self._sin, y * self._cos - x * self._sin) for x, y in word.polygon or corners(word.box)
        ]
        along, across = zip(*points, strict=True)
        return (min(along), min(across)), (max(along), max(across))

    def on_page(self, along: float, across: float) -> tuple[float, float]:
        return along * self._cos - across * self._sin, along * self._sin + across * self._cos


def _places(words: Sequence[PlacedWord], angle: float) -> LinePlaces:
    axes = _Axes(angle)
    extents = [axes.extent(word) for word in words]
    start, top = (min(low[axis] for low, _ in extents) for axis in (0, 1))
    end, bottom = (max(high[axis] for _, high in extents) for axis in (0, 1))
    standing = sorted(
        high[1] for word, (_, high) in zip(words, extents, strict=True) if _DESCENDING.isdisjoint(word.text)
    )
    base = standing[len(standing) // 2] if standing else bottom - _DESCENT * (bottom - top)
    boxes = [word.box for word in words]
    box = (
        *(min(each[side] for each in boxes) for side in (0, 1)),
        *(max(each[side] for each in boxes) for side in (2, 3)),
    )
    crooked = any(word.polygon is not None for word in words)
    return LinePlaces(
        (box[0], box[1], box[2], box[3]),
        [axes.on_page(*point) for point in ((start, top), (end, top), (end, bottom), (start, bottom))]
        if crooked
        else None,
        (axes.on_page(start, base), axes.on_page(end, base)),
        bottom - top,
    )
