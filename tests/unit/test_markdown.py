from __future__ import annotations

import pytest

from serve_app.document import Block, ErrorInfo, Page
from serve_app.document.markdown import page_markdown
from serve_app.outputs.markdown import document_markdown
from serve_app.outputs.text import document_text


def block(text: str, label: str = "text") -> Block:
    return Block(label=label, text=text, bbox=(0, 0, 1, 1), order=0)


@pytest.mark.parametrize(
    "text",
    [
        "Съешь же ещё этих мягких французских булок, да выпей чаю.",
        "foo_bar 5 * 3 = 15",
        "№ 7: 62 850,00 руб. (НДС 20%)",
        "-5 °C, #хэштег, 1.5 л, +7 812 555-01-47",
        "a < b > c & d",
        "array[0] and [1], [см. ниже]",
        "AT&T, Q&A",
        r"C:\Users",
        "~5 кг",
        "a | b",
    ],
)
def test_prose_stays_as_it_is(text: str) -> None:
    assert page_markdown([block(text)]) == text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("# 5", r"\# 5"),
        ("> 10 шт.", r"\> 10 шт."),
        ("- пункт", r"\- пункт"),
        ("+ пункт", r"\+ пункт"),
        ("* пункт", r"\* пункт"),
        ("1. Работы", r"1\. Работы"),
        ("12) Работы", r"12\) Работы"),
        ("Итого\n---", "Итого\n\\---"),
        ("Итого\n===", "Итого\n\\==="),
        ("a | b\n--|--", "a | b\n\\--|--"),
        ("a | b\n|--|--|", "a | b\n\\|--|--|"),
        ("*важно*", r"\*важно\*"),
        ("5*3", r"5\*3"),
        ("_важно_", r"\_важно\_"),
        ("Подпись ____", r"Подпись \_\_\_\_"),
        ("`код`", r"\`код\`"),
        ("~~нет~~", r"\~\~нет\~\~"),
        ("[тут](http://x)", r"[тут\](http://x)"),
        ("[1]: http://x", r"[1\]: http://x"),
        ("<script>", r"\<script>"),
        ("<!-- a", r"\<!-- a"),
        ("&lt;b", r"\&lt;b"),
        (r"\*", r"\\\*"),
        ("конец\\\nстроки", "конец\\\\\nстроки"),
        ("    не код", "не код"),
        ("жёсткий  \nперенос", "жёсткий\nперенос"),
        ("один\n\nабзац", "один\nабзац"),
    ],
)
def test_what_would_be_markup_is_escaped(text: str, markdown: str) -> None:
    assert page_markdown([block(text)]) == markdown


def test_titles_become_headings_on_one_line() -> None:
    blocks = [block("Счёт\n№ 5", "title"), block("Итого #", "paragraph_title"), block("- 1")]
    assert page_markdown(blocks) == "# Счёт № 5\n\n## Итого \\#\n\n\\- 1"


def test_blank_blocks_and_pages_leave_no_gap() -> None:
    assert page_markdown([block("a"), block(" \n "), block(" ", "title"), block("b")]) == "a\n\nb"
    pages = [
        Page(number=1, width=1, height=1, dpi=200, text="a*", markdown="a\\*"),
        Page(number=2, width=1, height=1, dpi=200),
        Page(number=3, width=1, height=1, dpi=200, text="b", markdown="b"),
    ]
    assert "".join(document_markdown(pages)) == "a\\*\n\nb"


def test_a_page_that_failed_is_told_of_where_it_would_be() -> None:
    pages = [
        Page(number=1, width=1, height=1, dpi=200, text="a", markdown="a"),
        Page(number=2, width=0, height=0, dpi=0, error=ErrorInfo(code="page_timeout", message="Слишком *долго*.")),
        Page(number=3, width=1, height=1, dpi=200, text="b", markdown="b"),
    ]
    note = "Page 2: Слишком {0}долго{0}. (page_timeout)"
    assert "".join(document_markdown(pages, notes=True)) == f"a\n\n> {note.format(chr(92) + '*')}\n\nb"
    assert "".join(document_text(pages, notes=True)) == f"a\n\n[{note.format('*')}]\n\nb"
    assert "".join(document_markdown(pages)) == "".join(document_text(pages)) == "a\n\nb"


def test_a_figure_is_linked_where_it_stands_with_the_text_it_has_below() -> None:
    picture = Block(label="image", text="", bbox=(0, 0, 1, 1), order=1, figure="imgs/a_1.jpg")
    seal = picture.model_copy(update={"label": "seal", "text": "# ОАО", "figure": "imgs/b.jpg"})
    markdown = page_markdown([block("a"), picture, block("b"), seal])
    assert markdown == "a\n\n![](imgs/a_1.jpg)\n\nb\n\n![](imgs/b.jpg)\n\n\\# ОАО"


def test_each_page_is_marked_with_its_number_also_an_empty_one() -> None:
    pages = [
        Page(number=number, width=1, height=1, dpi=200, markdown=text) for number, text in ((2, "а"), (3, ""), (5, "б"))
    ]
    marked = "".join(document_markdown(pages, marks=True))
    assert marked == "<!-- page 2 -->\n\nа\n\n<!-- page 3 -->\n\n<!-- page 5 -->\n\nб"
    assert page_markdown([block("<!-- page 9 -->")]) == "\\<!-- page 9 -->", "text of a page is no mark"
