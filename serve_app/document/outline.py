"""What only the whole document tells: tables that go on over pages, and how headings stand to each other.

Pages stay as they were read. An engine that can looks at their outlines and says what to change; the changes
are made on the way into those outputs that are of one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.document.model import Block, Box, Page

HEADING_LABELS = ("doc_title", "paragraph_title")


@dataclass(frozen=True)
class OutlinedBlock:
    """A block without what its place in the document does not depend on; `content` of tables and headings only."""

    order: int
    label: str
    bbox: Box
    content: str


@dataclass(frozen=True)
class PageOutline:
    """`number` is the page's, `blocks` are all of its blocks in reading order."""

    number: int
    blocks: tuple[OutlinedBlock, ...]


@dataclass(frozen=True)
class BlockChange:
    """What becomes of the block `order` of page `page` where the document is one piece.

    level           of a heading, from 1
    continues_from  of a table whose rows are in another one's: the page of that one
    content, text   of a table with the rows of those that continue it; None for no change
    markdown        what stands in its place in the page's Markdown; None for no change
    """

    page: int
    order: int
    level: int | None = None
    continues_from: int | None = None
    content: str | None = None
    text: str | None = None
    markdown: str | None = None


def outline_of(page: Page) -> PageOutline | None:
    """None for a page without anything that the document could change."""
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
    """The changes of a document, by page."""

    def __init__(self, changes: Iterable[BlockChange] = ()) -> None:
        self._pages: dict[int, dict[int, BlockChange]] = {}
        for change in changes:
            self._pages.setdefault(change.page, {})[change.order] = change

    @property
    def all_changes(self) -> list[BlockChange]:
        """What it was made from."""
        return [change for page in self._pages.values() for change in page.values()]

    def changes(self, number: int) -> bool:
        """Whether anything is changed on this page."""
        return number in self._pages

    def annotated(self, page: Page) -> Page:
        """The page as it was read; its blocks say how they stand in the document."""
        changes = self._pages.get(page.number)
        if changes is None:
            return page
        return page.model_copy(update={"blocks": [_annotated(block, changes) for block in page.blocks]})

    def as_one_piece(self, page: Page) -> Page:
        """The page as a part of the document: tables are whole where they begin, and not there where they go on."""
        changes = self._pages.get(page.number)
        if changes is None:
            return page
        blocks = []
        for block in page.blocks:
            change = changes.get(block.order)
            if change is not None and change.continues_from is not None:
                continue
            block = _annotated(block, changes)
            if change is not None and change.content is not None:
                block = block.model_copy(update={"content": change.content, "text": change.text})
            blocks.append(block)
        text = page.text
        if any(change.text is not None or change.continues_from is not None for change in changes.values()):
            text = "\n\n".join(block.text for block in blocks if block.text)
        return page.model_copy(update={"blocks": blocks, "text": text, "markdown": _markdown(page, changes)})


def _annotated(block: Block, changes: dict[int, BlockChange]) -> Block:
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
    return _edited(page.markdown, edits)


def _edited(markdown: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Put other text in the place of these [start, end); what is empty takes the blank line before it along."""
    kept, position = "", 0
    for start, end, new in sorted(edits):
        kept += markdown[position:start]
        kept = kept + new if new.strip() else kept.rstrip("\n")
        position = end
    return (kept + markdown[position:]).strip()
