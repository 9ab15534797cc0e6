"""Joins tables across pages and levels headings, like the library's `restructure_pages`.

The library's call takes whole results and parses a table of n pages n times, each time longer. This module needs an
outline and one pass for the same result (a test compares them). The decisions are made by the library's functions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.document.markdown import MAX_HEADING_LEVEL
from serve_app.document.outline import BlockChange, OutlinedBlock, PageOutline
from serve_app.document.tables import escape_unknown_tags, table_text

MAX_TABLE_CHARACTERS = 200_000
"""Longest joined table, about fifty pages; a longer one is split. Outputs have the same limit."""

MAX_SPAN = 100
"""Most rows or columns that a cell may span. The library lays tables out cell by cell, so larger spans take too long."""

MAX_SPANNED = 20_000
"""Largest sum of all spans of a table."""

MAX_LEFT_OPEN = 20
"""Most unclosed tags in a table."""

_TABLE = re.compile(r"<table", re.IGNORECASE)
_NESTING_TAG = re.compile(r"<(/?)(?!/|(?:br|hr|img|col|input|wbr)\b)[a-z]", re.IGNORECASE)
_MARKS = re.compile(r"^#+\s")
_SPAN = re.compile(r"""(?:col|row)span\s*=\s*["']?([^"'\s>]*)""", re.IGNORECASE)


def restructure(pages: Sequence[PageOutline], *, pretty: bool) -> list[BlockChange]:
    """Return the changes to these pages. `pretty`: whether their Markdown uses HTML to centre tables.

    A table continues if the next page number begins with a table of the same columns and width.
    """
    # Blocks without an area are skipped, since the library divides by it.
    outlines = [
        (page.number, [_as_library_block(block) for block in page.blocks if has_area(block.bbox)]) for page in pages
    ]
    return [*_heading_changes(outlines), *_table_changes(outlines, pretty=pretty)]


@dataclass
class _Table:
    """A table and its continuations. `soup` is its parsed HTML, and `body` the element that gets further rows."""

    page: int
    block: Any
    characters: int
    soup: Any = None
    body: Any = None
    continued_by: list[tuple[int, Any]] = field(default_factory=list)

    def append(self, page: int, block: Any, soup: Any, header_rows: int) -> None:
        self.continued_by.append((page, block))
        self.characters += len(block.content)
        for row in soup.find_all("tr")[header_rows:]:
            self.body.append(row.extract())


_Outline = tuple[int, list[Any]]


def _heading_changes(outlines: Sequence[_Outline]) -> Iterator[BlockChange]:
    from paddlex.inference.common.result.converter.markdown_format_funcs import format_para_title
    from paddlex.inference.pipelines.layout_parsing.title_level import assign_levels_to_parsing_res

    headings = [[block for block in blocks if block.label == "paragraph_title"] for _, blocks in outlines]
    if any(headings):
        assign_levels_to_parsing_res(headings)
    for number, blocks in outlines:
        for block in blocks:
            if block.label == "doc_title":
                yield BlockChange(number, block.order, level=1)
            elif block.label == "paragraph_title":
                block.title_level = min(block.title_level, MAX_HEADING_LEVEL - 1)
                yield BlockChange(number, block.order, level=block.title_level + 1, markdown=format_para_title(block))


def _table_changes(outlines: Sequence[_Outline], *, pretty: bool) -> Iterator[BlockChange]:
    for table in continued_tables(outlines):
        content = str(table.soup)
        yield BlockChange(
            table.page,
            table.block.order,
            content=content,
            text=table_text(content),
            markdown=_table_markdown(table.block, content, pretty=pretty),
        )
        for number, block in table.continued_by:
            yield BlockChange(number, block.order, continues_from=table.page, markdown="")


def continued_tables(outlines: Sequence[_Outline]) -> list[_Table]:
    """Return the tables that continue on the next page, each joined with its continuations."""
    from paddlex.inference.pipelines.layout_parsing.merge_table import can_merge_tables, detect_table_headers

    continued: list[_Table] = []
    open_table: _Table | None = None  # contains the last table of the previous page
    for (number, blocks), (next_number, next_blocks) in itertools.pairwise(outlines):
        tables, next_tables = _tables(blocks), _tables(next_blocks)
        if not tables or not next_tables or next_number != number + 1:
            open_table = None
            continue
        last, first = tables[-1], next_tables[0]
        continues: bool = False
        last_soup: Any = None
        first_soup: Any = None
        if _is_sane(last) and _is_sane(first):
            continues, last_soup, first_soup = can_merge_tables(blocks, last, next_blocks, first)
        characters = len(first.content) + (open_table.characters if open_table else len(last.content))
        if not continues or last_soup.find("tr") is None or characters > MAX_TABLE_CHARACTERS:
            open_table = None
            continue
        header_rows, _ = detect_table_headers(last_soup, first_soup)
        if open_table is None:
            rows = last_soup.find_all("tr")
            open_table = _Table(number, last, len(last.content), last_soup, rows[-1].parent)
            continued.append(open_table)
        open_table.append(next_number, first, first_soup, header_rows)
        if first is not next_tables[-1]:
            open_table = None
    return continued


def _tables(blocks: Sequence[Any]) -> list[Any]:
    return [block for block in blocks if block.label == "table"]


def _table_markdown(block: Any, content: str, *, pretty: bool) -> str:
    from paddlex.inference.common.result.converter.markdown_format_funcs import format_table_center, simplify_table

    block.content = content
    return ("\n" + str(format_table_center(block))) if pretty else str(simplify_table("\n" + content))


def _as_library_block(block: OutlinedBlock) -> Any:
    from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLBlock

    content = escape_unknown_tags(block.content) if block.label == "table" else _MARKS.sub("", block.content)
    converted = PaddleOCRVLBlock(block.label, list(block.bbox), content)
    converted.order = block.order
    return converted


def has_area(box: Sequence[float]) -> bool:
    left, top, right, bottom = box
    return right > left and bottom > top


def _is_sane(table: Any) -> bool:
    content = table.content
    if "<tr" not in content or len(content) > MAX_TABLE_CHARACTERS or len(_TABLE.findall(content)) > 1:
        return False
    spans = _SPAN.findall(content)
    if not all(span.isascii() and span.isdigit() and 1 <= int(span[:4]) <= MAX_SPAN for span in spans):
        return False
    # An unclosed tag nests everything after it, and the library walks the tree once per cell.
    left_open = sum(-1 if closing else 1 for closing in _NESTING_TAG.findall(content))
    return left_open <= MAX_LEFT_OPEN and sum(map(int, spans)) <= MAX_SPANNED
