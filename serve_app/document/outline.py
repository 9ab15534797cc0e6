"""Document structure: tables that continue across pages, and levels of headings.

Pages stay as they were recognized. An engine may compare their outlines and return changes, which are applied to the
outputs of the whole document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.document.model import Block, Box, Page

HEADING_LABELS = ("doc_title", "paragraph_title")


@dataclass(frozen=True)
class OutlinedBlock:
    """The parts of a block that document structure depends on. `content` is set only for tables and headings."""

    order: int
    label: str
    bbox: Box
    content: str


@dataclass(frozen=True)
class PageOutline:
    """All blocks of page `number`, in reading order."""

    number: int
    blocks: tuple[OutlinedBlock, ...]


@dataclass(frozen=True)
class BlockChange:
    """A change of the block `order` of page `page`, for outputs of the whole document.

    level           level of a heading, from 1
    continues_from  page on which the table begins, if this block only continues it
    content, text   those of a table with all rows that continue it; None: no change
    markdown        replaces the block in the page's Markdown; None: no change
    """

    page: int
    order: int
    level: int | None = None
    continues_from: int | None = None
    content: str | None = None
    text: str | None = None
    markdown: str | None = None


def outline_of(page: Page) -> PageOutline | None:
    """Return the page's outline; None if the page has neither tables nor headings."""
    if not any(block.label == "table" or block.label in HEADING_LABELS for block in page.blocks):
        return None
    return PageOutline(
        page.number,
        tuple(
            OutlinedBlock(block.order, block.label, block.bbox, _content(block))
            for block in sorted(page.blocks, key=lambda block: block.order)
        ),
    )


def _content(block: Block) -> str:
    return (block.content or block.text) if block.label == "table" or block.label in HEADING_LABELS else ""


class Structure:
    """All changes to a document's blocks, by page."""

    def __init__(self, changes: Iterable[BlockChange] = ()) -> None:
        self._pages: dict[int, dict[int, BlockChange]] = {}
        for change in changes:
            self._pages.setdefault(change.page, {})[change.order] = change

    @property
    def all_changes(self) -> list[BlockChange]:
        """All changes, as they were passed in."""
        return [change for page in self._pages.values() for change in page.values()]

    def changes_page(self, number: int) -> bool:
        """Whether anything changes on this page."""
        return number in self._pages

    def annotate(self, page: Page) -> Page:
        """Return the page as it was recognized, with `level` and `continues_from` of its blocks."""
        changes = self._pages.get(page.number)
        if changes is None:
            return page
        return page.model_copy(update={"blocks": [_annotate(block, changes) for block in page.blocks]})

    def as_one_piece(self, page: Page) -> Page:
        """Return the page as a part of the document: a table is complete where it begins, and absent where it continues."""
        changes = self._pages.get(page.number)
        if changes is None:
            return page
        blocks = []
        for block in page.blocks:
            change = changes.get(block.order)
            if change is not None and change.continues_from is not None:
                continue
            block = _annotate(block, changes)
            if change is not None and change.content is not None:
                block = block.model_copy(update={"content": change.content, "text": change.text})
            blocks.append(block)
        text = page.text
        if any(change.text is not None or change.continues_from is not None for change in changes.values()):
            text = "\n\n".join(block.text for block in blocks if block.text)
        return page.model_copy(update={"blocks": blocks, "text": text, "markdown": _markdown(page, changes)})


def _annotate(block: Block, changes: dict[int, BlockChange]) -> Block:
    change = changes.get(block.order)
    if change is None:
        return block
    return block.model_copy(update={"level": change.level, "continues_from": change.continues_from})


def _markdown(page: Page, changes: dict[int, BlockChange]) -> str:
    edits = [
        (*block.markdown_span, change.markdown)
        for block in page.blocks
        if (change := changes.get(block.order)) is not None
        and change.markdown is not None
        and block.markdown_span is not None
    ]
    return _edit(page.markdown, edits)


def _edit(markdown: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Replace each [start, end) by its text. An empty text also removes the blank line before it."""
    edited, position = "", 0
    for start, end, new in sorted(edits):
        edited += markdown[position:start]
        edited = edited + new if new.strip() else edited.rstrip("\n")
        position = end
    return (edited + markdown[position:]).strip()
