"""A book of twenty pages, no two alike, over HTTP and back: read by programs that are not ours.

What is drawn on the pages is known to the word and to the pixel, so the answers are held against that.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docx
import numpy as np
import pikepdf
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz import fuzz

from tests.support.pdfs import A4 as A4_POINTS
from tests.support.pdfs import FONT_FILE, text_pdf
from tests.support.pictures import photo
from tests.support.service import Service

DPI = 200
POINTS = 72 / DPI  # in a pixel
A4, A4_LANDSCAPE, A5, A6_LANDSCAPE = (1654, 2339), (2339, 1654), (1165, 1654), (1165, 827)
FONT_PX, MARGIN, LEADING = 34, 90, 54
PASSWORD = "тайна"

TABLE, FIGURE, VECTORS, BLANK, CORRUPT = 3, 4, 7, 10, 11  # pages

_Box = tuple[float, float, float, float]


@dataclass
class Sheet:
    """A page of the book as it is seen: its words, each with the box of its ink in points from the top left.

    `turned`: quarter turns clockwise of what is drawn, on the page as it is seen. `pdf` is the page as a file.
    """

    words: list[tuple[str, _Box]] = field(default_factory=list)
    turned: int = 0
    pdf: bytes = b""

    @property
    def text(self) -> str:
        return " ".join(text for text, _ in self.words)


class Drawing:
    """A sheet while it is drawn."""

    def __init__(self, size: tuple[int, int] = A6_LANDSCAPE) -> None:
        self.sheet = Sheet()
        self.image = Image.new("RGB", size, "white")
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.truetype(FONT_FILE, FONT_PX, layout_engine=ImageFont.Layout.BASIC)

    def paragraph(self, text: str, *, top: int = MARGIN, left: int = MARGIN, right: int | None = None) -> int:
        """Lines of words; returns where the next line would be."""
        x, y = left, top
        right = right or self.image.width - MARGIN
        for word in text.split():
            if x > left and x + self._font.getlength(word) > right:
                x, y = left, y + LEADING
            self._draw.text((x, y), word, font=self._font, fill="black")
            ink = self._draw.textbbox((x, y), word, font=self._font)
            start, upper, end, lower = (edge * POINTS for edge in ink)
            self.sheet.words.append((word, (start, upper, end, lower)))
            x += round(self._font.getlength(f"{word} "))
        return y + LEADING

    def table(self, rows: Sequence[Sequence[str]], *, top: int, column: int = 320, row: int = 90) -> None:
        for number, cells in enumerate(rows):
            for place, cell in enumerate(cells):
                left, upper = MARGIN + place * column, top + number * row
                self._draw.rectangle((left, upper, left + column, upper + row), outline="black", width=3)
                self.paragraph(cell, top=upper + 24, left=left + 25, right=left + column)

    def done(self, *, turned: int = 0, rotate: int = 0, quality: int = 90) -> Sheet:
        """The sheet as a scan: `turned` in its pixels, and `rotate` degrees in the PDF, clockwise."""
        pixels = self.image.rotate(-90 * turned, expand=True)
        stored = pixels.rotate(rotate, expand=True)  # the PDF turns it back
        file = io.BytesIO()
        stored.save(file, "PDF", resolution=DPI, quality=quality)
        with pikepdf.open(io.BytesIO(file.getvalue())) as pdf:
            pdf.pages[0].obj.Rotate = rotate
            out = io.BytesIO()
            pdf.save(out)
        self.sheet.pdf, self.sheet.turned = out.getvalue(), turned
        width, height = (edge * POINTS for edge in self.image.size)
        for _ in range(turned):
            self.sheet.words = [
                (word, (height - bottom, left, height - top, right))
                for word, (left, top, right, bottom) in self.sheet.words
            ]
            width, height = height, width
        return self.sheet


def scan(text: str, size: tuple[int, int] = A6_LANDSCAPE, **options: Any) -> Sheet:
    drawing = Drawing(size)
    top = MARGIN
    for paragraph in text.split("\n"):
        top = drawing.paragraph(paragraph, top=top) + LEADING
    return drawing.done(**options)


PHOTO = photo(620, 400)


def _table() -> Sheet:
    drawing = Drawing(A5)
    drawing.paragraph("Ведомость расходных материалов за март.")
    rows = [["Товар", "Цена", "Сумма"], ["Бумага", "350,00", "4200,00"], ["Скрепки", "48,50", "970,00"]]
    drawing.table(rows, top=220)
    drawing.paragraph("Принял кладовщик Щукин, остатки сверены.", top=560)
    return drawing.done()


def _figure() -> Sheet:
    drawing = Drawing(A5)
    top = drawing.paragraph("Прибор стоит на каменном основании, и его видно с дороги.")
    drawing.image.paste(PHOTO, (270, top + 50))
    drawing.paragraph("Рисунок первый: прибор летом, вид с южной стороны.", top=top + 520)
    return drawing.done()


def _vectors() -> Sheet:
    lines = ["Born in a word processor, never scanned.", "Этот лист набран на компьютере, а не снят."]
    size, left, width, height = 12, 72, *A4_POINTS
    places = [(left, 700 - 24 * row, size, line) for row, line in enumerate(lines)]
    sheet = Sheet(pdf=text_pdf(places, size=(width, height)))
    font = ImageFont.truetype(FONT_FILE, 100 * size, layout_engine=ImageFont.Layout.BASIC)
    for _, baseline, _, line in places:
        x = float(left)
        for word in line.split():
            end = x + font.getlength(word) / 100
            sheet.words.append((word, (x, height - baseline - 0.75 * size, end, height - baseline)))
            x = end + font.getlength(" ") / 100
    return sheet


def _blank() -> Sheet:
    return Drawing().done()


@pytest.fixture(scope="module")
def sheets() -> list[Sheet]:
    sheets = [
        scan("Глава первая. Съешь же ещё этих мягких французских булок, да выпей чаю.\nОбъём работ согласован.", A4),
        scan("The quick brown fox jumps over the lazy dog.\nIt pays 1,250 dollars for 48 boxes of paper.", A4),
        _table(),
        _figure(),
        scan("Этот лист лежал в сканере боком, и файл об этом знает.", rotate=90),
        scan("Этот лист лежал в сканере боком, но файл об этом молчит и никому не скажет.", turned=1),
        _vectors(),
        scan("A landscape page is wider than it is high, and so are its lines.", A4_LANDSCAPE),
        scan("Лист формата А5 вдвое меньше обычного.", A5),
        _blank(),
        scan("Эту страницу никто не прочтёт."),
        scan("Подъезд закрыт, ключ у дежурной: этаж четвёртый, комната 418."),
        scan("Shipping takes three working days within the country."),
        scan("Этот лист вложили вверх ногами, и заметили это не сразу, а через неделю.", turned=2),
        scan("Цена договора составляет 62850 рублей, включая налог."),
        scan("Invoices are due within thirty days of delivery.", rotate=270),
        scan("Генеральный директор Эльвира Цой подписала акт."),
        scan("Both parties keep a copy of this agreement.", rotate=180),
        scan("Хранить в сухом месте, беречь от детей и огня."),
        scan("Конец книги. The end of the book.", A5),
    ]
    assert len(sheets) == 20
    return sheets


def bound(sheets: Sequence[Sheet], password: str | None = None) -> bytes:
    """The sheets as one PDF, one page of which is corrupt."""
    with pikepdf.new() as whole:
        for sheet in sheets:
            with pikepdf.open(io.BytesIO(sheet.pdf)) as pdf:
                whole.pages.extend(pdf.pages)
        # Nothing may open the file again to write it: pikepdf would mend the page.
        whole.pages[CORRUPT - 1].obj.Type = pikepdf.Name.Broken
        out = io.BytesIO()
        whole.save(out, encryption=pikepdf.Encryption(user=password, owner="owner") if password else False)
    return out.getvalue()


@pytest.fixture(scope="module")
def book(sheets: list[Sheet]) -> bytes:
    return bound(sheets)


@dataclass(frozen=True)
class Answer:
    """A document's archive, unpacked."""

    folder: Path
    names: list[str]

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return document

    def text(self, number: int) -> str:
        text: str = self.document["pages"][number - 1]["text"]
        return text


def answered(service: Service, document: bytes, folder: Path, **fields: str) -> Answer:
    fields = {"output": "zip", "text_layer": "auto", **fields}
    with service.client() as client:
        answer = client.post("/ocr", files={"file": document}, data=fields)
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
        return Answer(folder, archive.namelist())


@pytest.fixture(scope="module")
def answer(service: Service, book: bytes, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return answered(service, book, tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def secret(service: Service, sheets: list[Sheet], tmp_path_factory: pytest.TempPathFactory) -> Answer:
    encrypted = bound(sheets, PASSWORD)
    with pytest.raises(pikepdf.PasswordError):
        pikepdf.open(io.BytesIO(encrypted))
    return answered(service, encrypted, tmp_path_factory.mktemp("secret"), password=PASSWORD)


def told(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def pdf_text(pdf: Path, number: int) -> str:
    return told("pdftotext", "-f", str(number), "-l", str(number), pdf, "-")


def boxes(pdf: Path, number: int) -> list[tuple[str, _Box]]:
    """Words of a page and their boxes in points from the top left, as poppler sees them."""
    page = BeautifulSoup(told("pdftotext", "-bbox", "-f", str(number), "-l", str(number), pdf, "-"), "html.parser")
    found = []
    for word in page.find_all("word"):
        left, top, right, bottom = (float(str(word[edge])) for edge in ("xmin", "ymin", "xmax", "ymax"))
        found.append((word.text, (left, top, right, bottom)))
    return found


def readable(sheets: Sequence[Sheet]) -> list[tuple[int, Sheet]]:
    return [(number, sheet) for number, sheet in enumerate(sheets, 1) if number not in (BLANK, CORRUPT)]


def squeezed(text: str) -> str:
    return " ".join(text.split())


def same(text: str, drawn: str, least: float = 97) -> bool:
    """Whether the text is what was drawn, but for what a scan may cost: a letter or two."""
    return fuzz.ratio(squeezed(text), drawn) >= least


def test_every_page_is_read_and_the_corrupt_one_alone_has_an_error(answer: Answer, sheets: list[Sheet]) -> None:
    document = answer.document
    assert (document["status"], document["page_count"], len(document["pages"])) == ("partial", 20, 20)
    errors = {page["number"]: page["error"]["code"] for page in document["pages"] if page["error"]}
    assert errors == {CORRUPT: "corrupt_document"}
    assert [number for number, sheet in readable(sheets) if not same(answer.text(number), sheet.text)] == []
    assert answer.text(BLANK) == answer.text(CORRUPT) == ""
    sources = {page["number"] for page in document["pages"] if page["text_source"] == "text_layer"}
    assert sources == {VECTORS}
    turned = {page["number"]: page["rotation"] for page in document["pages"] if page["rotation"]}
    assert turned == {number: 90 * sheet.turned for number, sheet in enumerate(sheets, 1) if sheet.turned}


def test_the_searchable_pdf_has_the_pages_of_the_original(answer: Answer, book: bytes, tmp_path: Path) -> None:
    original = tmp_path / "book.pdf"
    original.write_bytes(book)
    pages = [told("pdfinfo", "-f", "1", "-l", "20", pdf) for pdf in (original, answer.folder / "result.pdf")]
    wanted, found = (re.findall(r"(?m)^(Pages|Page +\d+ (?:size|rot)): +(.*)$", page) for page in pages)
    assert len(wanted) == 41
    assert found == wanted


def test_poppler_finds_every_pages_text_in_the_searchable_pdf(answer: Answer, sheets: list[Sheet]) -> None:
    pdf = answer.folder / "result.pdf"
    for number, sheet in readable(sheets):
        text = pdf_text(pdf, number)
        assert sorted(text.split()) == sorted(answer.text(number).split()), number
        assert fuzz.ratio(sorted(text.split()), sorted(sheet.text.split())) > 85, number
    assert squeezed(pdf_text(pdf, BLANK)) == squeezed(pdf_text(pdf, CORRUPT)) == ""


def test_words_in_the_searchable_pdf_lie_on_their_ink(answer: Answer, sheets: list[Sheet]) -> None:
    for number, sheet in readable(sheets):
        found = boxes(answer.folder / "result.pdf", number)
        missed = [
            word
            for word, ink in sheet.words
            if not any(other == word and _lies_on(ink, box, upwards=sheet.turned % 2) for other, box in found)
        ]
        assert len(missed) <= 1, (number, missed, sheet.words, found)


def _lies_on(ink: _Box, box: _Box, *, upwards: int) -> bool:
    """Along the line the edges are within 3 points; across it the box, as high as a font, holds the ink's middle."""
    start, end, low, high = (1, 3, 0, 2) if upwards else (0, 2, 1, 3)
    middle = (ink[low] + ink[high]) / 2
    return abs(ink[start] - box[start]) < 3 and abs(ink[end] - box[end]) < 3 and box[low] < middle < box[high]


def test_the_figure_is_where_the_markdown_links_it(answer: Answer, output_dir: Path) -> None:
    (block,) = (block for block in answer.document["pages"][FIGURE - 1]["blocks"] if block["label"] == "image")
    rendered = BeautifulSoup(MarkdownIt("commonmark").render((answer.folder / "result.md").read_text()), "html.parser")
    (image,) = rendered.find_all("img")
    assert image["src"] == block["figure"] and image["src"] in answer.names
    with Image.open(answer.folder / str(image["src"])) as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.subtract(picture.size, PHOTO.size)).max() < 12
        small = [
            np.asarray(each.convert("RGB").resize((16, 16), Image.Resampling.BOX), float) for each in (picture, PHOTO)
        ]
    assert np.abs(small[0] - small[1]).mean() < 15
    stored = answer.document["storage"]["keys"][block["figure"]]
    assert (output_dir / stored).read_bytes() == (answer.folder / block["figure"]).read_bytes()
    paragraphs = rendered.find_all("p")
    place = [image in paragraph.descendants for paragraph in paragraphs].index(True)
    assert "основании" in paragraphs[place - 1].text and paragraphs[place + 1].text.startswith("Рисунок первый")


def test_markdown_renders_to_the_text_of_all_pages(answer: Answer, sheets: list[Sheet]) -> None:
    rendered = BeautifulSoup(MarkdownIt("commonmark").render((answer.folder / "result.md").read_text()), "html.parser")
    text = rendered.get_text(" ")
    _has_in_order(text, answer, sheets)
    (note,) = rendered.find_all("blockquote")
    assert f"Page {CORRUPT}" in note.get_text() and "corrupt_document" in note.get_text()
    assert not rendered.find_all(["script", "a", "code", "ol", "ul", "hr"])


def test_html_has_a_section_a_page(answer: Answer, sheets: list[Sheet]) -> None:
    html = BeautifulSoup((answer.folder / "result.html").read_text(), "html.parser")
    sections = {str(section["id"]): section for section in html.find_all("section")}
    assert list(sections) == [f"page-{number}" for number in range(1, 21)]
    for number, _ in readable(sheets):
        assert squeezed(sections[f"page-{number}"].get_text(" ")) == squeezed(answer.text(number))
    assert not sections[f"page-{BLANK}"].get_text().strip()
    (note,) = html.select(".note")
    assert note.find_parent("section") is sections[f"page-{CORRUPT}"]
    (image,) = html.find_all("img")
    assert image.find_parent("section") is sections[f"page-{FIGURE}"]
    assert abs(int(str(image["width"])) - PHOTO.width * 96 // DPI) < 6
    jpeg = base64.b64decode(str(image["src"]).partition("base64,")[2])
    assert jpeg == (answer.folder / answer.document["pages"][FIGURE - 1]["blocks"][1]["figure"]).read_bytes()


def test_word_reads_the_docx_back(answer: Answer, sheets: list[Sheet]) -> None:
    document = docx.Document(str(answer.folder / "result.docx"))
    text = "\n".join(paragraph.text for paragraph in document.paragraphs)
    _has_in_order(text, answer, sheets)
    assert f"Page {CORRUPT} of the PDF is damaged" in text
    (picture,) = document.inline_shapes
    assert abs(picture.width.inches - PHOTO.width / DPI) < 0.05
    breaks = [paragraph for paragraph in document.paragraphs if paragraph.paragraph_format.page_break_before]
    assert len(breaks) == 19


def test_the_plain_text_is_that_of_the_json(answer: Answer, sheets: list[Sheet]) -> None:
    text = (answer.folder / "result.txt").read_text()
    assert text.count(f"\n\n[Page {CORRUPT}: ") == 1
    assert re.sub(r"\[Page [^\]]*\]\n\n", "", text) == answer.document["text"] + "\n"
    _has_in_order(text, answer, sheets)


def _has_in_order(text: str, answer: Answer, sheets: list[Sheet]) -> None:
    whole, start = squeezed(text), 0
    for number, _ in readable(sheets):
        wanted = squeezed(answer.text(number))
        start = whole.find(wanted, start)
        assert start >= 0, (number, wanted)
        start += len(wanted)


def test_the_archive_holds_every_form_and_nothing_else(answer: Answer) -> None:
    figure = answer.document["pages"][FIGURE - 1]["blocks"][1]["figure"]
    forms = [f"result.{kind}" for kind in ("json", "md", "txt", "html", "docx", "pdf")]
    assert sorted(answer.names) == sorted([*forms, figure])


def test_an_encrypted_book_reads_the_same_and_its_pdf_is_open(answer: Answer, secret: Answer) -> None:
    assert [secret.text(number) for number in range(1, 21)] == [answer.text(number) for number in range(1, 21)]
    assert secret.document["status"] == "partial"
    assert sorted(secret.names) == sorted(answer.names)
    pdf = secret.folder / "result.pdf"
    assert "Encrypted:       no" in told("pdfinfo", pdf)
    assert told("pdftotext", pdf, "-") == told("pdftotext", answer.folder / "result.pdf", "-")
    with pikepdf.open(pdf) as opened:
        assert not opened.is_encrypted and len(opened.pages) == 20
