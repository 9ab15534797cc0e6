"""Tables of an engine's HTML, as text and as cells on a grid."""

from __future__ import annotations

import pytest

from serve_app.document import Block
from serve_app.document.tables import table_grid, table_html, table_rows, table_text

TABLE = "<table><tr><td>Чай</td><td>3.50</td></tr></table>"


def table(content: str) -> Block:
    return Block(label="table", text="", content=content, bbox=(0, 0, 300, 100), order=0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("no table at all: a < b", "no table at all: a < b"),
        ("", ""),
        (TABLE, "Чай\t3.50"),
        ("<table><tr><th> Tea\n leaves </th></tr><tr><td></td><td>2</td></tr></table>", "Tea leaves\n\t2"),
        ("<table><tr><td colspan='2'>a &lt; b &amp; c</td></tr></table>", "a < b & c"),
        ("<table><tr><td>one<br/>two <b>three</b></td></tr></table>", "one two three"),
        ("<table><tr><td>unclosed", "unclosed"),
        ("<table>lost</table>", ""),
        ("</table><table><tr><td>1<td>2</table>", "1\t2"),
        ("<table><tr><td rowspan='many' colspan>1</td></tr></table>", "1"),
        ("<table><tr><td>1</td></tr></table> in thousands", "1 in thousands"),
        ("<table><tr><td>a<table><tr><td>b<td>c</table>d<td>e</table>", "a b cd\te"),
        ("<table><tr><td>5<x and y>d</td></tr></table>", "5<x and y>d"),
        ('<div style="text-align: center;"><table><tr><td>1</td></tr></table></div>', "1"),
    ],
)
def test_the_text_of_a_table(content: str, text: str) -> None:
    assert table_text(content) == text


def test_cells_are_laid_out_as_browsers_do() -> None:
    markup = table_html(
        table(
            "<table><tr><td rowspan=3>a<td colspan=2>b<tr><td>c<td rowspan=9>d<td>e<tr><td colspan=5>f<tr></table>",
        )
    )
    grid = table_grid(table_rows(markup), max_columns=9)
    assert [[(slot.cell.text, slot.width, slot.continued) for slot in row] for row in grid] == [
        [("a", 1, False), ("b", 2, False), ("", 1, False)],
        [("a", 1, True), ("c", 1, False), ("d", 1, False), ("e", 1, False)],
        [("a", 1, True), ("f", 1, False), ("d", 1, True), ("", 1, False)],
        [("", 1, False), ("", 1, False), ("d", 1, True), ("", 1, False)],
    ]
    assert table_grid(table_rows(markup), max_columns=2) == []
    assert table_grid([], max_columns=2) == table_grid([[], []], max_columns=2) == []


def test_a_nested_table_is_text_of_its_cell() -> None:
    markup = table_html(table("<table><tr><td>a<table><tr><td>b<td>c</table>d<td>e<br>f  g</table>"))
    assert [[cell.text for cell in row] for row in table_rows(markup)] == [["a b cd", "e\nf g"]]


def test_text_beside_a_table_is_in_no_cell() -> None:
    markup = table_html(table("<table><tr><td>1</table> in thousands<table><tr><td>2</table>"))
    assert [[cell.text for cell in row] for row in table_rows(markup)] == [["1"], ["2"]]
