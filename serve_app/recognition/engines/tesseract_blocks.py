"""Collects what Tesseract has recognized: paragraphs with their words, and possible pictures."""

from __future__ import annotations

import re
from collections import Counter, deque
from statistics import median
from typing import Any

from serve_app.document import Block, Box, Word
from serve_app.recognition.engines.figures import IMAGE, may_stand
from serve_app.recognition.engines.number_gaps import JOINED, Symbol, parted

LEAST_WORDS = 5
"""Words of which the usual height is taken: fewer may all be large, or small."""


def collect_blocks(tesserocr: Any, api: Any) -> tuple[list[Block], int]:
    """Return paragraphs and possible pictures in reading order, and the rotation of the text in degrees clockwise.

    The polygon of a picture is its outline, which need not have four corners.
    """
    level = tesserocr.RIL
    types = tesserocr.PT
    pictures = {types.FLOWING_IMAGE, types.HEADING_IMAGE, types.PULLOUT_IMAGE}
    no_text = {*pictures, types.HORZ_LINE, types.VERT_LINE, types.NOISE}
    blocks: list[Block] = []
    turns: Counter[int] = Counter()
    paragraph, box, words = "", (0, 0, 0, 0), list[Word]()
    # The numbers of a paragraph: as Tesseract has read each, and with the spaces that the picture has.
    numbers = list[tuple[str, str]]()
    iterator = api.GetIterator()
    if iterator is None:
        return [], 0
    for item in tesserocr.iterate_level(iterator, level.WORD):
        kind = item.BlockType()
        if kind in pictures and item.IsAtBeginningOf(level.BLOCK):
            # On a rotated page, BoundingBox rotates these once too often.
            outline = item.BlockPolygon()
            if outline:
                blocks.append(Block(label=IMAGE, text="", bbox=_bounds(outline), polygon=outline, order=len(blocks)))
        if kind in no_text or item.Empty(level.WORD):
            continue
        if item.IsAtBeginningOf(level.PARA):  # at a later word, the text would start from that word
            paragraph, box, words = item.GetUTF8Text(level.PARA), _box(item, level.PARA), []
            numbers = []
        text, last = item.GetUTF8Text(level.WORD).strip(), item.IsAtFinalElement(level.PARA, level.WORD)
        if text:
            word = Word(text=text, bbox=_box(item, level.WORD), confidence=_confidence(item, level))
            turns[int(item.Orientation()[0])] += 1
            apart = _apart(word, _symbols(item, level)) if JOINED.search(text) else [word]
            words += apart
            if JOINED.search(text):
                numbers.append((text, " ".join(part.text for part in apart)))
        if words and last:
            lines = (line.strip() for line in _with_spaces(paragraph, numbers).splitlines())
            blocks.append(
                Block(
                    label="text",
                    text="\n".join(line for line in lines if line),
                    bbox=box,
                    order=len(blocks),
                    confidence=round(mean_confidence(words), 4),
                    words=words,
                )
            )
    # Orientation counts clockwise quarter turns. If blocks differ, the majority of words decides.
    return blocks, turns.most_common(1)[0][0] * 90 if turns else 0


def boxes_read(blocks: list[Block], width: int, height: int, least_confidence: float = 0.7) -> list[Box]:
    """Return where a page of this size has pictures, and words that are not guessed.

    A region of the size or place that no picture has is not one of them: Tesseract takes a dark half of a page for a picture.
    """
    pictures = [block.bbox for block in blocks if block.label == IMAGE and may_stand(block.bbox, width, height)]
    return pictures + [word.bbox for word in words_of(blocks) if (word.confidence or 0.0) >= least_confidence]


def letter_height(words: list[Word], rotation: int, dpi: int) -> int:
    """Return the height of a usual letter in pixels; that of print of ten points if there are too few words to tell."""
    if len(words) < LEAST_WORDS:
        return max(1, round(dpi / 72 * 10))
    start, end = (0, 2) if rotation in (90, 270) else (1, 3)
    return max(1, round(median(word.bbox[end] - word.bbox[start] for word in words)))


def words_of(blocks: list[Block]) -> list[Word]:
    return [word for block in blocks for word in block.words]


def mean_confidence(words: list[Word]) -> float:
    return sum(word.confidence or 0.0 for word in words) / len(words) if words else 0.0


def certainty(blocks: list[Block]) -> float:
    """Return the number of characters read, each weighted by its word's confidence."""
    return sum(len(word.text) * (word.confidence or 0.0) for word in words_of(blocks))


def _symbols(item: Any, level: Any) -> list[Symbol]:
    """Return the symbols of a word in reading order, and move on to the last of them."""
    symbols = [(item.GetUTF8Text(level.SYMBOL), _box(item, level.SYMBOL))]
    while not item.IsAtFinalElement(level.WORD, level.SYMBOL) and item.Next(level.SYMBOL):
        symbols.append((item.GetUTF8Text(level.SYMBOL), _box(item, level.SYMBOL)))
    return symbols


def _apart(word: Word, symbols: list[Symbol]) -> list[Word]:
    """Return a word as it is, or as the parts of a number between which there are spaces in the picture."""
    groups = parted(symbols)
    # On a turned page, Tesseract gives the boxes of symbols as if it were upright.
    if len(groups) == 1 or _around(symbols) != word.bbox:
        return [word]
    return [
        word.model_copy(update={"text": "".join(text for text, _ in group), "bbox": _around(group)}) for group in groups
    ]


def _around(symbols: list[Symbol]) -> Box:
    lefts, tops, rights, bottoms = zip(*(box for _, box in symbols), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _with_spaces(paragraph: str, numbers: list[tuple[str, str]]) -> str:
    """Return the text of a paragraph with each of its numbers as it is in the picture."""
    waiting: dict[str, deque[str]] = {}
    for read, spaced in numbers:
        waiting.setdefault(read, deque()).append(spaced)
    return re.sub(r"\S+", lambda found: waiting[found[0]].popleft() if waiting.get(found[0]) else found[0], paragraph)


def _confidence(item: Any, level: Any) -> float:
    confidence: float = item.Confidence(level.WORD) / 100
    return round(min(max(confidence, 0.0), 1.0), 4)


def _bounds(outline: list[tuple[float, float]]) -> Box:
    across, down = zip(*outline, strict=True)
    return int(min(across)), int(min(down)), int(max(across)), int(max(down))


def _box(item: Any, level: int) -> Box:
    left, top, right, bottom = item.BoundingBox(level)
    return left, top, right, bottom
