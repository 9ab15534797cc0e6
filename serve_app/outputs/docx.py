"""Writes a document as a Word file (Office Open XML), with python-docx.

Paragraphs, tables and pictures are built as XML elements. The library's `add_*` methods search the whole document at
each call. Pictures wait in a file on disk, so only the text is in memory.
"""

from __future__ import annotations

import datetime as dt
import io
import logging
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, BinaryIO, cast

import docx
from docx.document import Document
from docx.enum.section import WD_ORIENT
from docx.enum.style import WD_STYLE_TYPE
from docx.image.image import Image
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml.ns import qn
from docx.oxml.parser import OxmlElement
from docx.oxml.shape import CT_Inline
from docx.oxml.text.paragraph import CT_P
from docx.oxml.xmlchemy import BaseOxmlElement
from docx.section import Section
from docx.shared import Inches, Length, Mm, Pt, RGBColor
from docx.styles.style import ParagraphStyle
from docx.text.paragraph import Paragraph

from serve_app.document import Block, Page
from serve_app.document.characters import xml_text
from serve_app.document.markdown import MAX_HEADING_LEVEL
from serve_app.document.tables import Slot, table_grid, table_html, table_pictures, table_rows
from serve_app.outputs.text import CAPTIONS, MARGINALS, heading_level, is_formula

log = logging.getLogger("ray.serve.ingress")

FONT = "Arial"  # has Cyrillic, Greek, Hebrew and Arabic; every office suite has it or a font of its metrics
MONOSPACED_FONT = "Courier New"

MAX_COLUMNS = 63
"""Word does not open a table with more."""

MAX_TITLE = 255
"""Longest title in characters, as Word limits core properties."""

_SHORT_SIDE, _LONG_SIDE, _MARGIN = Mm(210), Mm(297), Mm(20)  # A4
_TEXT_STYLES = {"caption": (9, None), "marginal": (9, None), "formula": (10, MONOSPACED_FONT), "note": (10, None)}


def write_docx(pages: Iterable[Page], *, title: str, figure: Callable[[str], bytes | None], to: BinaryIO) -> None:
    """Write the document to `to`. Each of `pages` starts a new A4 page, all in the orientation of the first one.

    `figure` returns the JPEG of a picture by its path (`Block.figure`), or None if the picture is missing.
    Pictures have their size on the page, or are scaled down to fit within the margins.
    """
    with tempfile.TemporaryFile() as pictures:
        writer = _Writer(pictures)
        for page in pages:
            writer.add(page, figure)
        writer.save(title, to)


class _Writer:
    def __init__(self, pictures: IO[bytes]) -> None:
        self._document = docx.Document()
        self._body = self._document.element.body
        self._section = self._document.sections[0]
        self._end = self._body.sectPr
        self._body.remove(self._end)  # `save` puts it back: it must be the last element
        self._pictures = pictures
        self._picture_count = 0
        self._page_count = 0
        self._break_due = False
        self._styles = _prepare_styles(self._document)
        self._width, self._height = _set_page(self._section, landscape=False)

    def add(self, page: Page, figure: Callable[[str], bytes | None]) -> None:
        if self._page_count == 0:
            self._width, self._height = _set_page(self._section, landscape=page.width > page.height)
        self._page_count += 1
        self._break_due = self._page_count > 1
        if page.note is not None:
            self._paragraph(page.note, "note")
        for block in page.blocks:
            self._block(block, page, figure)
        if self._break_due:  # an empty page is still a page
            self._paragraph("")

    def save(self, title: str, to: BinaryIO) -> None:
        self._body.append(self._end)
        properties = self._document.core_properties
        properties.title = xml_text(" ".join(title.split()))[:MAX_TITLE]
        properties.author = properties.last_modified_by = properties.comments = properties.keywords = ""
        properties.created = properties.modified = dt.datetime.now(dt.UTC)
        self._document.save(to)

    def _block(self, block: Block, page: Page, figure: Callable[[str], bytes | None]) -> None:
        if block.figure is not None:
            self._picture(figure(block.figure), page)
        if block.label != "table":
            self._text(block)
            return
        self._table(block)
        for path in table_pictures(block):
            self._picture(figure(path), page)

    def _text(self, block: Block) -> None:
        formula = is_formula(block)
        text = (block.content or block.text) if formula else block.text
        lines = [stripped for line in xml_text(text).split("\n") if (stripped := line.strip())]
        if not lines:
            return
        level = heading_level(block)
        if level is not None:
            self._paragraph(" ".join(lines), f"Heading {level}")
            return
        style = "caption" if block.label in CAPTIONS else "marginal" if block.label in MARGINALS else ""
        self._paragraph("\n".join(lines), "formula" if formula else style)

    def _paragraph(self, text: str, style: str = "") -> Paragraph:
        element = cast(CT_P, OxmlElement("w:p"))
        self._body.append(element)
        paragraph = Paragraph(element, self._document)
        if style:
            element.style = self._styles[style]
        if self._break_due:
            paragraph.paragraph_format.page_break_before = True
            self._break_due = False
        if text:
            paragraph.add_run(xml_text(text))
        return paragraph

    def _table(self, block: Block) -> None:
        grid = table_grid(table_rows(table_html(block)), max_columns=MAX_COLUMNS)
        if not grid:
            self._text(block)
            return
        columns = sum(slot.width for slot in grid[0])
        if self._break_due:
            self._paragraph("")
        table = _child(self._body, "w:tbl")
        settings = _child(table, "w:tblPr")
        _child(settings, "w:tblStyle", val="TableGrid")
        _child(settings, "w:tblW", w="0", type="auto")
        widths = _child(table, "w:tblGrid")
        for _ in range(columns):
            _child(widths, "w:gridCol", w=str(self._width.twips // columns))
        for row in grid:
            line = _child(table, "w:tr")
            for slot in row:
                self._cell(line, slot, self._width.twips // columns)
        self._paragraph("")  # Word merges tables that touch

    def _cell(self, row: BaseOxmlElement, slot: Slot, column_width: int) -> None:
        cell = _child(row, "w:tc")
        settings = _child(cell, "w:tcPr")
        _child(settings, "w:tcW", w=str(column_width * slot.width), type="dxa")
        if slot.width > 1:
            _child(settings, "w:gridSpan", val=str(slot.width))
        if slot.cell.rowspan > 1:
            _child(settings, "w:vMerge", val="continue" if slot.continued else "restart")
        paragraph = Paragraph(cast(CT_P, _child(cell, "w:p")), self._document)
        for text, script in () if slot.continued else slot.cell.runs:
            run = paragraph.add_run(text)
            run.bold = slot.cell.heading or None
            if script == "sub":
                run.font.subscript = True
            elif script == "sup":
                run.font.superscript = True

    def _picture(self, jpeg: bytes | None, page: Page) -> None:
        try:
            image = Image.from_blob(jpeg or b"")
            width, height = (side / page.dpi for side in (image.px_width, image.px_height))  # inches
            scale = min(1.0, self._width.inches / width, self._height.inches / height)
        # Pictures are untrusted, and python-docx raises all sorts of errors for a bad header.
        except Exception as error:
            log.warning("a picture of page %d is not in the DOCX: %s", page.number, type(error).__name__)
            self._paragraph("A picture of this page is missing.", "note")
            return
        self._picture_count += 1
        part = _SpooledPart(self._picture_count, image, self._pictures)
        inline = CT_Inline.new_pic_inline(
            self._picture_count,
            self._document.part.relate_to(part, RELATIONSHIP_TYPE.IMAGE),
            f"picture{self._picture_count}.jpg",
            Inches(width * scale),
            Inches(height * scale),
        )
        inline.docPr.set("descr", f"Picture on page {page.number}")
        self._paragraph("").add_run()._r.add_drawing(inline)


class _SpooledPart(Part):
    """A picture in the package. Its bytes stay in the file `spool` until the package is written."""

    def __init__(self, number: int, image: Image, spool: IO[bytes]) -> None:
        super().__init__(PackURI(f"/word/media/image{number}.{image.ext}"), image.content_type)
        self._spool = spool
        self._start = spool.seek(0, io.SEEK_END)
        self._length = spool.write(image.blob)

    @property
    def blob(self) -> bytes:
        self._spool.seek(self._start)
        return self._spool.read(self._length)


def _prepare_styles(document: Document) -> dict[str, str]:
    """Make the template's styles plain, and return the ids of the used ones by name."""
    for fonts in document.styles.element.iter(qn("w:rFonts")):
        for theme in ("asciiTheme", "hAnsiTheme", "cstheme"):  # programs choose different fonts for a theme
            fonts.attrib.pop(qn(f"w:{theme}"), None)
    (defaults,) = document.styles.element.xpath("w:docDefaults/w:rPrDefault/w:rPr")
    for script in ("ascii", "hAnsi", "cs"):
        defaults.find(qn("w:rFonts")).set(qn(f"w:{script}"), FONT)
    defaults.remove(defaults.find(qn("w:lang")))  # the language of the text is not known
    ids = {}
    for name in (f"Heading {level}" for level in range(1, MAX_HEADING_LEVEL + 1)):
        heading = cast(ParagraphStyle, document.styles[name])
        heading.font.color.rgb = RGBColor(0, 0, 0)
        ids[name] = heading.style_id
    for name, (size, font) in _TEXT_STYLES.items():
        style = cast(ParagraphStyle, document.styles.add_style(f"Page {name}", WD_STYLE_TYPE.PARAGRAPH))
        style.base_style = document.styles["Normal"]
        style.font.size, style.font.name, style.font.italic = Pt(size), font, name == "note" or None
        ids[name] = style.style_id
    package = document.part.package
    for key in [key for key, rel in package.rels.items() if rel.reltype == RELATIONSHIP_TYPE.THUMBNAIL]:
        del package.rels[key]  # the thumbnail shows the template
    return ids


def _set_page(section: Section, *, landscape: bool) -> tuple[Length, Length]:
    """Set size and margins of the page; returns the width and height between the margins."""
    width, height = (_LONG_SIDE, _SHORT_SIDE) if landscape else (_SHORT_SIDE, _LONG_SIDE)
    section.orientation = WD_ORIENT.LANDSCAPE if landscape else WD_ORIENT.PORTRAIT
    section.page_width, section.page_height = width, height
    section.left_margin = section.right_margin = section.top_margin = section.bottom_margin = _MARGIN
    return Length(width - 2 * _MARGIN), Length(height - 2 * _MARGIN)


def _child(parent: BaseOxmlElement, name: str, **attributes: str) -> BaseOxmlElement:
    """Append a child and return it. Its attributes get the namespace of WordprocessingML."""
    child = cast(BaseOxmlElement, OxmlElement(name, {qn(f"w:{key}"): value for key, value in attributes.items()}))
    parent.append(child)
    return child
