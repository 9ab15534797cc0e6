"""The Word file of a document, read back with python-docx and as the XML that it is."""

from __future__ import annotations

import datetime as dt
import io
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from xml.etree import ElementTree

import docx
import pytest
from docx.document import Document
from docx.oxml.ns import qn
from docx.shared import Inches, Mm
from PIL import Image

from serve_app.document import Block, ErrorInfo, Page
from serve_app.outputs.docx import MAX_COLUMNS, write_docx

PAGE_BREAKS = ".//{*}pageBreakBefore"


def block(text: str, label: str = "text", content: str | None = None, figure: str | None = None) -> Block:
    return Block(label=label, text=text, content=content, bbox=(0, 0, 300, 100), order=0, figure=figure)


def page(number: int, *blocks: Block, dpi: int = 300, landscape: bool = False) -> Page:
    width, height = (3508, 2480) if landscape else (2480, 3508)
    return Page(number=number, width=width, height=height, dpi=dpi, blocks=list(blocks))


def jpeg(width: int = 300, height: int = 100, noise: bool = False) -> bytes:
    file = io.BytesIO()
    picture = Image.effect_noise((width, height), 90) if noise else Image.new("RGB", (width, height), (200, 30, 30))
    picture.save(file, "JPEG")
    return file.getvalue()


def written(
    pages: Iterable[Page], title: str = "Документ", figure: Callable[[str], bytes | None] = lambda path: None
) -> bytes:
    file = io.BytesIO()
    write_docx(iter(pages), title=title, figure=figure, to=file)
    return file.getvalue()


def read(*pages: Page, title: str = "Документ", figure: Callable[[str], bytes | None] = lambda path: None) -> Document:
    return docx.Document(io.BytesIO(written(pages, title, figure)))


def paragraphs(document: Document) -> list[tuple[str, str]]:
    return [(str(item.style.name) if item.style else "", item.text) for item in document.paragraphs]


def test_blocks_are_headings_paragraphs_and_formulas() -> None:
    document = read(
        page(
            1,
            block("Договор\nаренды", "doc_title"),
            block("Предмет", "paragraph_title"),
            block("Съешь же ещё\nэтих\tбулок"),
            block("x", "display_formula", r"\frac{a}{b} < c"),
            block("Рис. 1", "figure_title"),
            block("7", "number"),
            block(" \n "),
        )
    )
    assert paragraphs(document) == [
        ("Heading 1", "Договор аренды"),
        ("Heading 2", "Предмет"),
        ("Normal", "Съешь же ещё\nэтих\tбулок"),
        ("Page formula", r"\frac{a}{b} < c"),
        ("Page caption", "Рис. 1"),
        ("Page marginal", "7"),
    ]


def test_each_page_begins_a_new_one_whatever_it_begins_with() -> None:
    failed = Page(number=4, width=1, height=1, dpi=72, error=ErrorInfo(code="page_timeout", message="Слишком долго."))
    pages = [page(1, block("а")), page(2), page(3, block("б\tв", "table")), failed, page(5, block("г", "title"))]
    document = read(*pages)
    breaks = [item.text for item in document.paragraphs if item.paragraph_format.page_break_before]
    assert breaks == ["", "", "Page 4: Слишком долго. (page_timeout)", "г"]
    assert len(document.element.findall(PAGE_BREAKS)) == len(pages) - 1
    assert document.element.body[-1].tag == qn("w:sectPr")


def test_a_table_has_merged_cells() -> None:
    content = (
        "<table><tr><th rowspan=2>Чай</th><td colspan=2>H<sub>2</sub>O</td></tr>"
        "<tr><td>1<br>2</td><td>x<sup>3</sup></td></tr><tr><td>&lt;b&gt;</td></tr></table>"
    )
    document = read(page(1, block("", "table", content), block("а\tб", "table")))
    first, second = document.tables
    assert [[cell.text for cell in row.cells] for row in first.rows] == [
        ["Чай", "H2O", "H2O"],
        ["Чай", "1\n2", "x3"],
        ["<b>", "", ""],
    ]
    assert first.cell(0, 0)._tc is first.cell(1, 0)._tc and first.cell(0, 1)._tc is first.cell(0, 2)._tc
    assert [(run.text, run.font.subscript) for run in first.cell(0, 1).paragraphs[0].runs] == [
        ("H", None),
        ("2", True),
        ("O", None),
    ]
    assert first.cell(1, 2).paragraphs[0].runs[1].font.superscript and first.cell(0, 0).paragraphs[0].runs[0].bold
    assert [cell.text for cell in second.rows[0].cells] == ["а", "б"]
    assert first._tbl.getnext() is not second._tbl  # tables that touch are one to Word


def test_a_table_wider_than_word_opens_is_lines() -> None:
    row = "\t".join(map(str, range(MAX_COLUMNS + 1)))
    document = read(page(1, block(row, "table")))
    assert document.tables == [] and paragraphs(document) == [("Normal", row)]


@pytest.mark.parametrize(
    ("size", "dpi", "inches"),
    [
        ((300, 100), 300, (1, 1 / 3)),
        ((300, 100), 150, (2, 2 / 3)),
        ((1000, 100), 50, (Mm(170).inches, Mm(170).inches / 10)),
        ((100, 1000), 50, (Mm(257).inches / 10, Mm(257).inches)),
        ((1, 1), 300, (1 / 300, 1 / 300)),
    ],
)
def test_a_picture_is_as_large_as_on_paper_or_as_fits(
    size: tuple[int, int], dpi: int, inches: tuple[float, float]
) -> None:
    picture = jpeg(*size)
    document = read(page(1, block("", "image", figure="a.jpg"), dpi=dpi), figure={"a.jpg": picture}.get)
    (shape,) = document.inline_shapes
    assert (shape.width, shape.height) == (
        pytest.approx(Inches(inches[0]), abs=2),
        pytest.approx(Inches(inches[1]), abs=2),
    )
    (part,) = [part for part in document.part.package.iter_parts() if part.partname.startswith("/word/media/")]
    assert (part.blob, part.content_type) == (picture, "image/jpeg")


def test_pictures_each_keep_their_own_bytes() -> None:
    pictures = {f"{n}.jpg": jpeg(10 + n, 10) for n in range(5)}
    content = '<table><tr><td><img src="4.jpg" alt="Image"" /></td></tr></table>'
    blocks = [block("", "image", figure=f"{n}.jpg") for n in range(4)] + [block("", "table", content)]
    document = read(page(1, *blocks), figure=pictures.get)
    embedded = [item.get(qn("r:embed")) for item in document.element.iter(qn("a:blip"))]
    assert [document.part.related_parts[key].blob for key in embedded] == list(pictures.values())
    assert len({item.get("id") for item in document.element.iter(qn("wp:docPr"))}) == 5


@pytest.mark.parametrize("found", [None, b"", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"not a picture"])
def test_a_picture_that_is_missing_is_said(found: bytes | None) -> None:
    document = read(page(1, block("Надпись", "image", figure="a.jpg")), figure=lambda path: found)
    assert paragraphs(document) == [("Page note", "A picture of this page is missing."), ("Normal", "Надпись")]


@pytest.mark.parametrize("label", ["text", "doc_title", "table", "display_formula"])
def test_hostile_text_stays_text(label: str) -> None:
    text = "\x00<w:br/>\x0b</w:t>\x1b&amp;\ud800\ufffe ]]> javascript:alert(1) Чай"
    clean = "<w:br/>", "</w:t>&amp; ]]> javascript:alert(1) Чай"
    file = written([page(1, block(text, label))], title=text)
    document = docx.Document(io.BytesIO(file))
    found = [cell.text for table in document.tables for cell in table._cells] + [
        item.text for item in document.paragraphs if item.text
    ]
    assert " ".join(found).split() == " ".join(clean).split()
    assert document.core_properties.title.startswith("<w:br/>")
    with zipfile.ZipFile(io.BytesIO(file)) as package:
        assert package.testzip() is None
        for name in package.namelist():
            if name.endswith((".xml", ".rels")):
                ElementTree.fromstring(package.read(name))


def test_the_file_tells_of_itself_and_not_of_the_library() -> None:
    file = written([page(1, block("а"))], title="Акт\n№ 7 " + "я" * 300)
    properties = docx.Document(io.BytesIO(file)).core_properties
    assert properties.title.startswith("Акт № 7 я") and len(properties.title) == 255
    assert (properties.author, properties.last_modified_by, properties.comments) == ("", "", "")
    assert properties.created is not None
    assert abs(dt.datetime.now(dt.UTC) - properties.created.replace(tzinfo=dt.UTC)) < dt.timedelta(minutes=5)
    with zipfile.ZipFile(io.BytesIO(file)) as package:
        assert not any("thumbnail" in name for name in package.namelist())
        assert b"python-docx" not in package.read("docProps/core.xml")
        styles = ElementTree.fromstring(package.read("word/styles.xml"))
    assert styles.find(".//{*}docDefaults//{*}lang") is None
    fonts = styles.find(".//{*}docDefaults//{*}rFonts")
    assert fonts is not None and [fonts.get(qn(f"w:{script}")) for script in ("ascii", "hAnsi", "cs")] == ["Arial"] * 3
    assert not [item for item in styles.iter(qn("w:rFonts")) if item.get(qn("w:hAnsiTheme"))]


@pytest.mark.parametrize(("landscape", "size"), [(False, (210, 297)), (True, (297, 210))])
def test_the_paper_lies_as_the_first_page_does(landscape: bool, size: tuple[int, int]) -> None:
    section = read(page(1, block("а"), landscape=landscape)).sections[0]
    assert section.page_width is not None and section.page_height is not None
    assert (round(section.page_width.mm), round(section.page_height.mm)) == size


def test_no_pages_are_an_empty_document() -> None:
    assert paragraphs(read()) == []


def test_pictures_do_not_lie_in_memory() -> None:
    picture = jpeg(1000, 700, noise=True)
    count = 40

    def pages() -> Iterator[Page]:
        for number in range(1, count + 1):
            yield page(number, block("", "image", figure="a.jpg"))

    with tempfile.TemporaryFile() as file:
        tracemalloc.start()
        write_docx(pages(), title="", figure=lambda path: bytes(bytearray(picture)), to=file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert file.tell() > count * len(picture) / 2
    assert peak < count * len(picture) / 2
