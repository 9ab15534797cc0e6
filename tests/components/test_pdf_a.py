"""PDF/A: searchable PDFs for archives, as pikepdf's validator and poppler see them."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable

import pikepdf
import pytest
from pikepdf import Dictionary, Name, Pdf, pdfa
from PIL import Image

from serve_app.document import Block, Page, PageContent, Word
from serve_app.document.spool import PageSpool
from serve_app.errors import CorruptDocument
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.outputs.writer_client import searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file
from tests.support.searchable_pdfs import crooked

WORD = Word(text="слово😀", bbox=(20, 20, 100, 50))
PAGE = Page(
    number=1,
    width=600,
    height=400,
    dpi=144,
    blocks=[Block(label="text", text=WORD.text, bbox=(0, 0, 1, 1), order=0, words=[WORD])],
)


def picture(mode: str, kind: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((600, 400)).convert(mode).save(out, kind)
    return out.getvalue()


def pdf_page(*fonts: bool) -> bytes:
    """A page for each value: with text in a font that is not embedded, or without. One without, if none is given."""
    with Pdf.new() as pdf:
        for font in fonts or (False,):
            leaf = pdf.add_blank_page(page_size=(300, 200))
            text = b" BT /F 20 Tf 90 90 Td (visible) Tj ET" * font
            leaf.obj.Contents = pdf.make_stream(b"0.5 g 20 20 40 40 re f" + text)
            if font:
                face = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
                leaf.obj.Resources = Dictionary(Font=Dictionary(F=face))
        pdf.docinfo["/Title"] = "Договор"
        pdf.Root.Lang = pikepdf.String("ru")
        out = io.BytesIO()
        pdf.save(out)
        return out.getvalue()


def archived(source: bytes, page: Page = PAGE, *, draw_all: bool = False, straighten: bool = False) -> bytes:
    out = io.BytesIO()
    with unnamed_file(source) as file:
        write_searchable_pdf(
            file, iter([page]), password=None, to=out, pdf_a=True, draw_all=draw_all, straighten=straighten
        )
    return out.getvalue()


def text_of(data: bytes) -> str:
    return subprocess.run(["pdftotext", "-", "-"], input=data, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: picture("RGB", "JPEG"), id="jpeg"),
        pytest.param(lambda: picture("1", "TIFF"), id="fax"),
        pytest.param(lambda: picture("P", "PNG"), id="palette"),
        pytest.param(pdf_page, id="pdf"),
    ],
)
def test_the_result_is_pdf_a_and_can_be_searched(source: Callable[[], bytes]) -> None:
    data = archived(source())

    report = pdfa.validate_written(io.BytesIO(data), "2b")
    assert report.passed, report.summary()
    assert text_of(data).split() == [WORD.text]
    with Pdf.open(io.BytesIO(data)) as pdf, pdf.open_metadata() as metadata:
        assert metadata.pdfa_status == "2B"
        assert metadata.get("dc:title") == pdf.docinfo.get("/Title")


@pytest.mark.parametrize("straighten", [False, True])
@pytest.mark.parametrize("rotation", [0, 270])
def test_a_crooked_page_is_pdf_a_too(rotation: int, straighten: bool) -> None:
    data = archived(picture("L", "PNG"), crooked(PAGE, 3, rotation), straighten=straighten)

    report = pdfa.validate_written(io.BytesIO(data), "2b")
    assert report.passed, report.summary()
    assert text_of(data).split() == [WORD.text]


@pytest.mark.parametrize("source", [pdf_page(True), picture("CMYK", "JPEG")], ids=["font", "inks"])
def test_what_pdf_a_does_not_allow_is_there_as_a_picture(source: bytes) -> None:
    with pytest.raises(CorruptDocument):
        archived(source)

    data = archived(source, draw_all=True)

    report = pdfa.validate_written(io.BytesIO(data), "2b")
    assert report.passed, report.summary()
    assert WORD.text in text_of(data)


async def archived_by_the_writer(source: bytes, pages: int) -> tuple[bytes, tuple[int, ...]]:
    spool = PageSpool()
    for number in range(1, pages + 1):
        spool.add(PageContent(PAGE.model_copy(update={"number": number})))
    try:
        with await searchable_pdf(source, spool, password=None, pdf_a=True, timeout_s=60) as written:
            return written.file.read(), written.pages_drawn
    finally:
        spool.close()


async def test_only_the_page_that_cannot_be_kept_is_drawn() -> None:
    data, drawn = await archived_by_the_writer(pdf_page(False, True, False), 3)

    assert drawn == (2,)
    report = pdfa.validate_written(io.BytesIO(data), "2b")
    assert report.passed, report.summary()
    assert text_of(data).split() == [WORD.text] * 3
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert ["/XObject" in page.resources for page in pdf.pages] == [False, True, False]


async def test_a_document_none_of_whose_pages_is_at_fault_is_drawn_as_a_whole() -> None:
    source = pdf_page(False, False)
    with Pdf.open(io.BytesIO(source)) as pdf:
        for page in pdf.pages:  # the field is a page's, and its form the document's
            field = Dictionary(Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="name", Rect=[0, 0, 9, 9], F=4)
            page.obj.Annots = pikepdf.Array([pdf.make_indirect(field)])
        pdf.Root.AcroForm = Dictionary(Fields=[page.Annots[0] for page in pdf.pages], XFA=b"<xfa/>")
        out = io.BytesIO()
        pdf.save(out)

    data, drawn = await archived_by_the_writer(out.getvalue(), 2)

    assert drawn == (1, 2)
    assert pdfa.validate_written(io.BytesIO(data), "2b").passed
