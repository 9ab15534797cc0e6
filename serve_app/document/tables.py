"""Sanitizes an engine's HTML tables and lays their cells out on a grid.

The HTML is untrusted, since a model generated it from a page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

import nh3

from serve_app.document.characters import xml_text
from serve_app.document.model import Block

MAX_SPAN = 100
"""Most rows or columns that a cell may span. A larger span is read as 1."""

MAX_CHARACTERS = 200_000
"""Longest HTML of a table. For longer HTML, the block's text is used instead."""

MAX_NESTED = 8
"""Most tables in one block's HTML. Each costs as much time as all before it."""

_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "br", "sub", "sup"}

_DROPPED_TAGS = {
    *("html", "body", "div", "span", "p", "caption", "colgroup", "col", "tfoot", "img", "b", "i", "u", "em", "strong")
}
"""Tags that engines write and that are removed. Any other tag is text from the page."""

_TAG = re.compile(r"<(?:/?(?P<name>[a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])[^<>]*>)?")

_PICTURE = re.compile(r"""<img\s[^<>]*?src=["'](?P<path>[^"'<>]+)["']""")

Script = Literal["", "sub", "sup"]


@dataclass(frozen=True)
class Cell:
    """A table cell. `runs` are its text in order, each with its script; line breaks are LF. Spans are at least 1."""

    runs: tuple[tuple[str, Script], ...] = ()
    colspan: int = 1
    rowspan: int = 1
    heading: bool = False

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.runs)


@dataclass(frozen=True)
class Slot:
    """The part of a cell in one row, `width` columns wide. `continued` is set if the cell begins in a row above."""

    cell: Cell
    width: int = 1
    continued: bool = False


def table_html(block: Block) -> str:
    """Return the block's table as HTML with only table, thead, tbody, tr, th, td, br, sub, sup, colspan and rowspan.

    It is made from `content` if that has a table, else from the lines and tabs of `text`. Content outside the table
    stays outside it.
    """
    return _engine_html(block.content or "") or _text_html(block.text)


def table_rows(markup: str) -> list[list[Cell]]:
    """Return the cells of each row. A cell that spans rows is in the first of them.

    Rows of several tables are concatenated. A nested table becomes text of its enclosing cell. Text outside of tables is
    dropped.
    """
    return _rows(_RowParser(), markup)


def table_text(content: str) -> str:
    """Return the text of an HTML table, with one line per row and tabs between cells. Other text is returned unchanged.

    Text after a table is added to its last cell.
    """
    if "<table" not in content:
        return content
    rows = _rows(_RowParser(keep_outside=True), escape_unknown_tags(content))
    return "\n".join("\t".join(" ".join(cell.text.split()) for cell in row) for row in rows)


def table_grid(rows: Sequence[Sequence[Cell]], *, max_columns: int) -> list[list[Slot]]:
    """Lay cells out as rows of slots, all of the same width. If cells overlap, the first one wins.

    Returns no rows if the table has no cells, or more than `max_columns` columns.
    """
    lines: list[dict[int, Slot]] = []
    spanning: dict[int, tuple[Slot, int]] = {}  # by column: a slot that spans further rows, and how many
    for row in rows:
        line = {column: slot for column, (slot, _) in spanning.items()}
        spanning = {column: (slot, left - 1) for column, (slot, left) in spanning.items() if left > 1}
        occupied = {column + offset for column, slot in line.items() for offset in range(slot.width)}
        column = 0
        for cell in row:
            while column in occupied:
                column += 1
            width = 1
            while width < cell.colspan and column + width not in occupied:
                width += 1
            line[column] = Slot(cell, width)
            if cell.rowspan > 1:
                spanning[column] = (Slot(cell, width, continued=True), cell.rowspan - 1)
            column += width
            if column > max_columns:
                return []
        lines.append(line)
    columns = max((column + slot.width for line in lines for column, slot in line.items()), default=0)
    return [_fill_gaps(line, columns) for line in lines] if columns else []


def table_pictures(block: Block) -> list[str]:
    """Return the paths of the pictures in the table, in order."""
    return [html.unescape(match["path"]) for match in _PICTURE.finditer(block.content or "")]


def _fill_gaps(line: dict[int, Slot], columns: int) -> list[Slot]:
    slots: list[Slot] = []
    column = 0
    while column < columns:
        slot = line.get(column, Slot(Cell()))
        slots.append(slot)
        column += slot.width
    return slots


def _engine_html(content: str) -> str | None:
    if not 0 < content.lower().count("<table") <= MAX_NESTED or len(content) > MAX_CHARACTERS:
        return None
    clean = nh3.clean(
        _TAG.sub(_known_tag, xml_text(content)),
        tags=_TAGS,
        clean_content_tags=set(),
        attributes={"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}},
        attribute_filter=_span,
        link_rel=None,
    )
    return xml_text(clean) if "<table" in clean else None  # a character reference may have decoded to a control


def escape_unknown_tags(content: str) -> str:
    """Escape text such as `a<b` in an engine's HTML table that would be read as a tag."""
    return _TAG.sub(_markup, content)


def _markup(match: re.Match[str]) -> str:
    name = (match["name"] or "").lower()
    return match[0] if name in _TAGS or name in _DROPPED_TAGS else html.escape(match[0])


def _known_tag(match: re.Match[str]) -> str:
    name = (match["name"] or "").lower()
    if name in _TAGS:
        return match[0]
    return "" if name in _DROPPED_TAGS else html.escape(match[0])


def _span(_tag: str, _attribute: str, value: str) -> str | None:
    return value if _is_span(value) else None


def _is_span(value: str) -> bool:
    """Whether a colspan or rowspan is between 2 and MAX_SPAN. Others are dropped."""
    return re.fullmatch(r"[0-9]{1,3}", value) is not None and 1 < int(value) <= MAX_SPAN


def _text_html(text: str) -> str:
    rows = (
        "".join(f"<td>{html.escape(cell)}</td>" for cell in line.split("\t")) for line in xml_text(text).split("\n")
    )
    return f"<table><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>" if text.strip() else ""


def _rows(parser: _RowParser, markup: str) -> list[list[Cell]]:
    parser.feed(markup)
    parser.close()
    return [[cell.finish() for cell in row] for row in parser.rows]


class _OpenCell:
    def __init__(self, colspan: int, rowspan: int, heading: bool) -> None:
        self.colspan, self.rowspan, self.heading = colspan, rowspan, heading
        self.runs: list[tuple[str, Script]] = []

    def finish(self) -> Cell:
        """Return the cell with white space collapsed as in HTML."""
        runs = [(re.sub(r"[ \t\n]+", " ", text) if text != "\n" else text, script) for text, script in self.runs]
        if runs:
            runs[0] = (runs[0][0].lstrip(), runs[0][1])
            runs[-1] = (runs[-1][0].rstrip(), runs[-1][1])
        return Cell(tuple(run for run in runs if run[0]), self.colspan, self.rowspan, self.heading)


class _RowParser(HTMLParser):
    """Parses any markup, including unclosed tables and invalid spans."""

    def __init__(self, *, keep_outside: bool = False) -> None:
        """`keep_outside`: text after a table is added to its last cell."""
        super().__init__()
        self._keep_outside = keep_outside
        self.rows: list[list[_OpenCell]] = []
        self._depth = 0
        self._scripts: list[Script] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag == "table"
        if tag == "sub":
            self._scripts.append("sub")
        elif tag == "sup":
            self._scripts.append("sup")
        elif tag == "br":
            self._write("\n")
        elif self._depth > 1:
            self._write(" ")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            spans = {name: int(value) for name, value in attrs if value and _is_span(value)}
            self.rows[-1].append(_OpenCell(spans.get("colspan", 1), spans.get("rowspan", 1), tag == "th"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._depth = max(0, self._depth - 1)
        if tag in ("sub", "sup") and self._scripts:
            self._scripts.pop()

    def handle_data(self, data: str) -> None:
        # A run of just LF means a line break, so white space in markup becomes a space.
        self._write(data if data.strip() else " ")

    def _write(self, text: str) -> None:
        if (self._depth or self._keep_outside) and self.rows and self.rows[-1]:
            runs = self.rows[-1][-1].runs
            if text != " " or (runs and not runs[-1][0].endswith((" ", "\n"))):
                runs.append((text, self._scripts[-1] if self._scripts else ""))
