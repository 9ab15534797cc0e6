"""The HTML of a document, read back by parsers that are not ours."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import re
import weakref
from collections.abc import Iterator

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from serve_app.document import Block, ErrorInfo, Page
from serve_app.document.tables import MAX_CHARACTERS
from serve_app.outputs.html import html_document

HOSTILE = (
    "<script>alert(1)</script>",
    "</p></section></body><script src=//evil.example></script>",
    '<img src=x onerror="alert(1)">',
    "[ссылка](javascript:alert(1))",
    "<a href='javascript:alert(1)'>тут</a>",
    "&lt;b&gt; &amp; &#60;script&#62;",
    "<!-- <style>*{}</style>",
    "]]> </title> </style>",
)

TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "br", "sub", "sup"}


def block(text: str, label: str = "text", content: str | None = None, figure: str | None = None) -> Block:
    return Block(label=label, text=text, content=content, bbox=(0, 0, 300, 100), order=0, figure=figure)


def page(number: int, *blocks: Block, dpi: int = 300) -> Page:
    return Page(number=number, width=2480, height=3508, dpi=dpi, blocks=list(blocks))


def jpeg(size: tuple[int, int] = (30, 10)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def rendered(*pages: Page, title: str = "Документ", pictures: dict[str, bytes] | None = None) -> str:
    whole = "".join(html_document(iter(pages), title=title, figure=(pictures or {}).get))
    assert whole.encode("utf-8").decode("utf-8") == whole
    return whole


def parsed(*pages: Page, title: str = "Документ", pictures: dict[str, bytes] | None = None) -> BeautifulSoup:
    return BeautifulSoup(rendered(*pages, title=title, pictures=pictures), "lxml")


def texts(soup: BeautifulSoup, selector: str) -> list[str]:
    return [element.get_text() for element in soup.select(selector)]


def test_blocks_are_headings_paragraphs_and_formulas() -> None:
    soup = parsed(
        page(
            1,
            block("Договор\nаренды", "doc_title"),
            block("Предмет", "paragraph_title"),
            block("Съешь же ещё\nэтих мягких булок"),
            block(r"\frac{a}{b} < c", "display_formula"),
            block("(1)", "formula_number"),
            block("Рис. 1", "figure_title"),
            block("7", "number"),
            block(" \n "),
        ),
        page(2, block("Глава", "title")),
    )
    assert texts(soup, "h1") == ["Договор аренды", "Глава"]
    assert texts(soup, "h2") == ["Предмет"]
    assert texts(soup, "pre.formula") == [r"\frac{a}{b} < c"]
    assert [list(element.stripped_strings) for element in soup.select("p")] == [
        ["Съешь же ещё", "этих мягких булок"],
        ["(1)"],
        ["Рис. 1"],
        ["7"],
    ]
    assert len(soup.select("p br")) == 1
    assert [section["id"] for section in soup.select("body > section")] == ["page-1", "page-2"]


def test_a_formula_is_the_latex_of_the_engine() -> None:
    assert texts(parsed(page(1, block("x", "inline_formula", r"\hat{x}"))), "pre.formula") == [r"\hat{x}"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("label", ["text", "doc_title", "display_formula", "table", "header", "<b>"])
def test_what_was_recognized_stays_text(text: str, label: str) -> None:
    soup = parsed(page(1, block(text, label)), title=text)
    assert text in [element.get_text() for element in soup.select("p, h1, pre, td")]
    assert soup.title is not None and soup.title.get_text() == text
    names = {element.name for element in soup.find_all(True)}
    assert names <= {"html", "head", "meta", "title", "style", "body", "section", "p", "h1", "pre", *TABLE_TAGS}


def test_a_table_keeps_spans_and_indices_and_loses_all_else() -> None:
    content = (
        '<div style="text-align:center"><table border=1 style="x" onclick="y"><thead><tr>'
        '<th colspan="2" rowspan="-3" class="z">Чай &lt;b&gt;</th></tr></thead><tbody>'
        '<tr><td rowspan="2" colspan="9999">H<sub>2</sub>O<br/>10<sup>3</sup></td><td><b>3</b>'
        "<td><a href='javascript:x'>a < b</a><script>alert(1)</script></table></div>"
    )
    soup = parsed(page(1, block("", "table", content)))
    assert {element.name for element in soup.select("section *")} == TABLE_TAGS
    assert [(cell.name, dict(cell.attrs), cell.get_text()) for cell in soup.select("th, td")] == [
        ("th", {"colspan": "2"}, "Чай <b>"),
        ("td", {"rowspan": "2"}, "H2O103"),
        ("td", {}, "3"),
        ("td", {}, "<a href='javascript:x'>a < b</a><script>alert(1)</script>"),
    ]


@pytest.mark.parametrize(
    "content", [None, "", "no table", "<tr><td>1</td></tr>", "<table>" * 20, "<table>" + "x" * MAX_CHARACTERS]
)
def test_a_table_without_usable_html_is_made_of_its_text(content: str | None) -> None:
    soup = parsed(page(1, block("Чай\t3.50\nСахар\t<b>", "table", content)))
    assert [[cell.get_text() for cell in row.select("td")] for row in soup.select("tr")] == [
        ["Чай", "3.50"],
        ["Сахар", "<b>"],
    ]


def test_a_picture_is_inside_the_file_and_as_wide_as_on_paper() -> None:
    picture = jpeg((300, 100))
    soup = parsed(page(3, block("Надпись", "image", figure="imgs/a.jpg")), pictures={"imgs/a.jpg": picture})
    (image,) = soup.select("figure img")
    head, data = str(image["src"]).split(",")
    assert (head, base64.b64decode(data)) == ("data:image/jpeg;base64", picture)
    assert (image["alt"], image["width"]) == ("Picture on page 3", "96")  # 300 pixels at 300 dpi: an inch
    assert texts(soup, "p") == ["Надпись"]


def test_a_picture_of_a_turned_page_is_as_wide_as_it_is_upright() -> None:
    turned = page(1, block("", "image", figure="imgs/a.jpg"))
    turned.rotation = 90
    (image,) = parsed(turned, pictures={"imgs/a.jpg": jpeg((100, 300))}).select("figure img")
    assert image["width"] == "32"


def test_pictures_of_a_table_stand_below_it() -> None:
    content = '<table><tr><td><img src="imgs/a.jpg" alt="Image"" /></td><td>1</td></tr></table>'
    soup = parsed(page(1, block("\t1", "table", content)), pictures={"imgs/a.jpg": jpeg()})
    assert [element.name for element in soup.select("section > *")] == ["table", "figure"]


def test_what_is_missing_is_said() -> None:
    failed = Page(number=2, width=1, height=1, dpi=72, error=ErrorInfo(code="page_timeout", message="<Слишком долго>"))
    soup = parsed(page(1, block("", "image", figure="../../etc/passwd")), failed)
    assert texts(soup, ".note") == [
        "A picture of this page is missing.",
        "Page 2: <Слишком долго> (page_timeout)",
    ]


def test_the_file_needs_nothing_and_runs_nothing() -> None:
    whole = rendered(page(1, block("a", "image", figure="a")), pictures={"a": jpeg()})
    soup = BeautifulSoup(whole, "lxml")
    assert whole.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in whole[:200]
    (policy,) = soup.select("meta[http-equiv=Content-Security-Policy]")
    (style,) = re.findall(r"<style>(.*?)</style>", whole, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in str(policy["content"]) and f"'sha256-{digest}'" in str(policy["content"])
    assert "unsafe" not in str(policy["content"]) and "url(" not in style and "@import" not in style
    assert not soup.select("script, link, iframe, object, base, [style], [href]")
    assert all(str(element["src"]).startswith("data:image/jpeg;base64,") for element in soup.select("[src]"))


@pytest.mark.parametrize("label", ["text", "table"])
def test_characters_that_no_file_can_hold_are_gone(label: str) -> None:
    content = "<table><tr><td>\x00Чай\ud800&#0;&#11;&#x1b;</td></tr></table>" if label == "table" else None
    whole = rendered(page(1, block("\x00Чай\ud800\x1b", label, content)), title="\x00Имя\udcff")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", whole)
    assert "<title>Имя</title>" in whole and "Чай" in whole


def test_pages_are_not_kept() -> None:
    seen: list[weakref.ref[Page]] = []
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 50

    def pages() -> Iterator[Page]:
        for number in range(1, 301):
            one = page(number, block(text))
            seen.append(weakref.ref(one))
            yield one

    largest = 0
    alive = 0
    for piece in html_document(pages(), title="Много", figure=lambda path: None):
        largest = max(largest, len(piece))
        if piece == "</section>\n" and len(seen) % 100 == 0:
            gc.collect()
            alive = max(alive, sum(reference() is not None for reference in seen))
    assert len(seen) == 300 and alive <= 2 and largest < 2 * len(text)
