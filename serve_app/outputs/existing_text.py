"""Leaves out of a recognized page what the page of the PDF shows as text already."""

from __future__ import annotations

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
        if text.is_trusted and not text.picture_share and not text.annotated:
            return page.model_copy(update={"blocks": []}), False  # all that can be read there is text
        places = _Places([word for word, _, _ in text.words])
        if text.words and (not text.is_garbled or places.agree_with(page)):
            page = _without(page, places)
        return page, text.hidden > 0

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
    """Words by place, to find those at a box."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._cells: dict[tuple[int, int], list[Word]] = {}
        for word in words:
            for cell in _cells(word.bbox):
                self._cells.setdefault(cell, []).append(word)

    def have(self, word: Word) -> bool:
        """Whether most of the word's box has text, and that may be the same."""
        there = self._at(word.bbox)
        if sum(_shared(word.bbox, other.bbox) for other in there) < COVERED * _area(word.bbox):
            return False
        text, others = _plain(word.text), _plain("".join(other.text for other in there))
        return len(text) < LONG_ENOUGH or text in others or SequenceMatcher(None, text, others).ratio() >= UNLIKE

    def agree_with(self, page: Page) -> bool:
        """Whether most words of the page that are long enough to tell have the same text in their place."""
        words = [word for block in page.blocks for word in block.words if len(_plain(word.text)) >= LONG_ENOUGH]
        same = sum(_plain(word.text) in _plain("".join(other.text for other in self._at(word.bbox))) for word in words)
        return bool(words) and same >= AGREEING * len(words)

    def have_text_of(self, block: Block) -> bool:
        """Whether most words of a block whose words have no boxes are in its box."""
        words = Counter(_plain(word) for word in block.text.split())
        there = Counter(_plain(word.text) for word in self._at(block.bbox))
        return (words & there).total() >= COVERED * words.total()

    def _at(self, box: Box) -> list[Word]:
        found = {id(word): word for cell in _cells(box) for word in self._cells.get(cell, ())}
        return sorted((word for word in found.values() if _shared(box, word.bbox)), key=lambda word: word.bbox[0])


def _cells(box: Box) -> list[tuple[int, int]]:
    left, top, right, bottom = (side // _GRID for side in box)
    return [(across, down) for across in range(left, right + 1) for down in range(top, bottom + 1)]


def _shared(box: Box, other: Box) -> int:
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    return across * down if across > 0 and down > 0 else 0


def _area(box: Box) -> int:
    return max(box[2] - box[0], 1) * max(box[3] - box[1], 1)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
