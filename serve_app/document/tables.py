"""Tables: sanitizes an engine's HTML, and lays its cells out on a grid.

A model read the HTML off a page, so it is untrusted.
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
"""Most rows or columns that a cell may cover; one that claims more covers one."""

MAX_CHARACTERS = 200_000
"""Of an engine's HTML; a longer one is read as the block's text."""

MAX_NESTED = 8
"""Tables within one block's HTML: each costs what all before it cost."""

_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "br", "sub", "sup"}

_DROPPED_TAGS = {
    *("html", "body", "div", "span", "p", "caption", "colgroup", "col", "tfoot", "img", "b", "i", "u", "em", "strong")
}
"""Markup that engines write and that is not kept; any other tag is text that was on the page."""

_TAG = re.compile(r"<(?:/?(?P<name>[a-zA-Z][a-zA-Z0-9]*)(?=[\s/>])[^<>]*>)?")

_PICTURE = re.compile(r"""<img\s[^<>]*?src=["'](?P<path>[^"'<>]+)["']""")

Script = Literal["", "sub", "sup"]


@dataclass(frozen=True)
class Cell:
    """`runs` are its text in order, each with how it stands to the line; line breaks are LF. Spans are at least 1."""

    runs: tuple[tuple[str, Script], ...] = ()
    colspan: int = 1
    rowspan: int = 1
    heading: bool = False

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.runs)


@dataclass(frozen=True)
class Slot:
    """What of a cell lies in one row: `width` columns; `continued` if the cell began in a row above."""

    cell: Cell
    width: int = 1
    continued: bool = False


def table_html(block: Block) -> str:
    """The block's table in HTML of nothing but table, thead, tbody, tr, th, td, br, sub, sup, colspan and rowspan.

    It is made of `content` if there is a table in it, else of the lines and tabs of `text`.
    Whatever stands outside of the table is beside it in the result.
    """
    return _engine_html(block.content or "") or _text_html(block.text)


def table_rows(markup: str) -> list[list[Cell]]:
    """The cells of each row, as HTML has them: a cell stands in the row where it begins.

    Rows of several tables follow each other. A nested table becomes text of the cell around it; text outside of tables
    is left out.
    """
    return _rows(_RowParser(), markup)


def table_text(content: str) -> str:
    """The text of an engine's HTML table: one line per row, tabs between cells. Other text is returned unchanged.

    Text behind a table follows its last cell.
    """
    if "<table" not in content:
        return content
    rows = _rows(_RowParser(keep_outside=True), escape_unknown_tags(content))
    return "\n".join("\t".join(" ".join(cell.text.split()) for cell in row) for row in rows)


def table_grid(rows: Sequence[Sequence[Cell]], *, max_columns: int) -> list[list[Slot]]:
    """Rows of slots that are all equally wide. Where cells claim the same place, the first one has it.

    There are no rows if the table has no cells, or more than `max_columns` columns.
    """
    lines: list[dict[int, Slot]] = []
    hanging: dict[int, tuple[Slot, int]] = {}  # by column: what reaches into the next row, and into how many
    for row in rows:
        line = {column: slot for column, (slot, _) in hanging.items()}
        hanging = {column: (slot, left - 1) for column, (slot, left) in hanging.items() if left > 1}
        taken = {column + offset for column, slot in line.items() for offset in range(slot.width)}
        column = 0
        for cell in row:
            while column in taken:
                column += 1
            width = 1
            while width < cell.colspan and column + width not in taken:
                width += 1
            line[column] = Slot(cell, width)
            if cell.rowspan > 1:
                hanging[column] = (Slot(cell, width, continued=True), cell.rowspan - 1)
            column += width
            if column > max_columns:
                return []
        lines.append(line)
    columns = max((column + slot.width for line in lines for column, slot in line.items()), default=0)
    return [_filled(line, columns) for line in lines] if columns else []


def table_pictures(block: Block) -> list[str]:
    """Paths of the pictures that stand in the table, in order."""
    return [html.unescape(match["path"]) for match in _PICTURE.finditer(block.content or "")]


def _filled(line: dict[int, Slot], columns: int) -> list[Slot]:
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
    return xml_text(clean) if "<table" in clean else None  # a character reference may have been a control


def escape_unknown_tags(content: str) -> str:
    """An engine's HTML of a table in which `a<b`, read off the page, is text and not the beginning of a tag."""
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
    """Whether a colspan or rowspan covers more than one cell, within bounds; others are dropped."""
    return re.fullmatch(r"[0-9]{1,3}", value) is not None and 1 < int(value) <= MAX_SPAN


def _text_html(text: str) -> str:
    rows = (
        "".join(f"<td>{html.escape(cell)}</td>" for cell in line.split("\t")) for line in xml_text(text).split("\n")
    )
    return f"<table><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>" if text.strip() else ""


def _rows(parser: _RowParser, markup: str) -> list[list[Cell]]:
    parser.feed(markup)
    parser.close()
    return [[cell.done() for cell in row] for row in parser.rows]


class _OpenCell:
    def __init__(self, colspan: int, rowspan: int, heading: bool) -> None:
        self.colspan, self.rowspan, self.heading = colspan, rowspan, heading
        self.runs: list[tuple[str, Script]] = []

    def done(self) -> Cell:
        """White space as HTML shows it; each run keeps its place."""
        runs = [(re.sub(r"[ \t\n]+", " ", text) if text != "\n" else text, script) for text, script in self.runs]
        if runs:
            runs[0] = (runs[0][0].lstrip(), runs[0][1])
            runs[-1] = (runs[-1][0].rstrip(), runs[-1][1])
        return Cell(tuple(run for run in runs if run[0]), self.colspan, self.rowspan, self.heading)


class _RowParser(HTMLParser):
    """Reads any markup: tables may be unclosed, and spans may be anything."""

    def __init__(self, *, keep_outside: bool = False) -> None:
        """`keep_outside`: text behind a table is added to its last cell."""
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
        # A break is a run that is nothing but LF; white space of the markup is not one.
        self._write(data if data.strip() else " ")

    def _write(self, text: str) -> None:
        if (self._depth or self._keep_outside) and self.rows and self.rows[-1]:
            runs = self.rows[-1][-1].runs
            if text != " " or (runs and not runs[-1][0].endswith((" ", "\n"))):
                runs.append((text, self._scripts[-1] if self._scripts else ""))
