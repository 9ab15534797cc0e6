"""Leaves out of a recognized page what the page of the PDF shows as text already."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher

from serve_app.document import Block, Box, Page, Word
from serve_app.errors import ServiceError
from serve_app.raster.pdf import PdfSource
from serve_app.runtime.mapped_file import FileContent

COVERED = 0.5
"""Least share of a word's box, or of a block's words, that text of the page covers if it is the same text."""

UNLIKE, LONG_ENOUGH = 0.3, 4
"""A word of at least so many letters that is less like the text in its place than this is something else, such as a scan
under a stamp."""

AGREEING = 0.8
"""Share of words from which text with letters of no meaning is taken for right."""

LARGER = 10
"""Text whose letters take this many times the room of the recognized ones is not what was recognized there. Some fonts give
a letter a box as large as the page."""

_GRID = 64  # pixels


class ExistingText:
    """The visible text of a PDF's pages."""

    def __init__(self, data: FileContent, password: str | None) -> None:
        self._document: PdfSource | None = None
        with suppress(ServiceError):  # PDFium cannot read the file, so no page has text
            self._document = PdfSource(data, password)

    @property
    def is_of_mended_file(self) -> bool:
        """Whether pages are those of a file that was mended before it was read; see `PdfSource`."""
        return self._document is not None and self._document.is_mended

    @property
    def page_count(self) -> int | None:
        """Number of pages as PDFium counts them; None if it cannot read the file."""
        return None if self._document is None else self._document.page_count

    def compare(self, page: Page) -> tuple[Page, bool]:
        """Return the page without words that its PDF page shows as text, and whether the PDF page may hide some text.

        Garbled text does not count, unless most words are right: codes of bullets may have no meaning.
        """
        if self._document is None or not page.blocks:
            return page, bool(page.blocks)
        try:
            text = self._document.visible_text(page.number, width=page.width, height=page.height, dpi=page.dpi)
        except ServiceError:
            text = None
        if text is None:
            return page, True
        places = _Places([*(word for word, _, _ in text.words), *text.tilted], page)
        if text.words and (not text.is_garbled or places.agree_with(page)):
            page = _without(page, places)
        # Text that is hidden beside trusted text is no earlier recognition, unless something is left to recognize.
        return page, text.hidden > 0 and (bool(page.blocks) or not text.is_trusted or bool(text.picture_share))

    def close(self) -> None:
        if self._document is not None:
            self._document.close()


def _without(page: Page, places: _Places) -> Page:
    blocks = []
    for block in page.blocks:
        if block.words:
            words = [word for word in block.words if not places.have(word)]
            if words:
                blocks.append(block.model_copy(update={"words": words}))
        elif not places.have_text_of(block):
            blocks.append(block)
    return page.model_copy(update={"blocks": blocks})


class _Places:
    """Visible words by place, to find those at a box of a recognized page."""

    def __init__(self, words: Sequence[Word], page: Page) -> None:
        rooms = sorted(_room(word) for block in page.blocks for word in block.words)
        self._usual_room = rooms[len(rooms) // 2] if rooms else math.inf
        largest = LARGER * rooms[-1] if rooms else math.inf
        self._cells: dict[tuple[int, int], list[Word]] = {}
        for word in words:
            for cell in _cells(word.bbox) if _room(word) <= largest else ():
                self._cells.setdefault(cell, []).append(word)

    def have(self, word: Word) -> bool:
        """Whether most of the word's box has text, and that may be the same, or the box has the word itself."""
        there, text, area = self._at(word.bbox, _room(word)), _plain(word.text), _area(word.bbox)
        if any(
            _plain(it.text) == text and _shared(word.bbox, it.bbox) >= COVERED * min(_area(it.bbox), area)
            for it in there
        ):
            return True  # a recognized word may have a box as high as its line
        if sum(_shared(word.bbox, other.bbox) for other in there) < COVERED * area:
            return False
        others = _plain("".join(other.text for other in there))
        return len(text) < LONG_ENOUGH or text in others or SequenceMatcher(None, text, others).ratio() >= UNLIKE

    def agree_with(self, page: Page) -> bool:
        """Whether most words of the page that are long enough to tell, and have text in their place, have the same text."""
        words = [word for block in page.blocks for word in block.words if len(_plain(word.text)) >= LONG_ENOUGH]
        found = [(word, there) for word in words if (there := self._at(word.bbox, _room(word)))]
        same = sum(_plain(word.text) in _plain("".join(other.text for other in there)) for word, there in found)
        return bool(found) and same >= AGREEING * len(found)

    def have_text_of(self, block: Block) -> bool:
        """Whether most words of a block whose words have no boxes are in its box."""
        words = Counter(_plain(word) for word in block.text.split())
        there = Counter(_plain(word.text) for word in self._at(block.bbox))
        return (words & there).total() >= COVERED * words.total()

    def _at(self, box: Box, room: float = 0.0) -> list[Word]:
        """Return the words in a box, from left to right. `room` is that of a letter which was recognized there."""
        largest = LARGER * max(room, self._usual_room)
        found = {id(word): word for cell in _cells(box) for word in self._cells.get(cell, ())}
        return sorted(
            (word for word in found.values() if _room(word) <= largest and _shared(box, word.bbox)),
            key=lambda word: word.bbox[0],
        )


def _cells(box: Box) -> list[tuple[int, int]]:
    left, top, right, bottom = (side // _GRID for side in box)
    return [(across, down) for across in range(left, right + 1) for down in range(top, bottom + 1)]


def _shared(box: Box, other: Box) -> int:
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    return across * down if across > 0 and down > 0 else 0


def _area(box: Box) -> int:
    return max(box[2] - box[0], 1) * max(box[3] - box[1], 1)


def _room(word: Word) -> float:
    """Return the area for each letter of a word, in pixels."""
    return _area(word.bbox) / max(len(word.text), 1)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
