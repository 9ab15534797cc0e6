"""Searchable PDFs of files that PDFium reads and qpdf refuses: their pages are drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pikepdf import Pdf, PdfError

from serve_app.document import Page, PageContent
from serve_app.document.spool import PageSpool
from serve_app.document.warnings import WarningCode
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.outputs.writer_client import searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file
from tests.support.searchable_pdfs import SIZE, drawn, failed, page_of, pdftotext, plain_pdf, word_boxes, words_block

A_LOOP_OF_PAGES = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R 2 0 R]/Count 2>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R>>endobj
4 0 obj<</Length 25>>stream
0.5 g 20 20 40 40 re f   
endstream endobj
trailer<</Root 1 0 R/Size 5>>
"""


def written(source: bytes, *pages: Page, draw_all: bool = False) -> tuple[bytes, list[int]]:
    out = io.BytesIO()
    with unnamed_file(source) as file:
        numbers = write_searchable_pdf(file, iter(pages), password=None, to=out, draw_all=draw_all)
    return out.getvalue(), numbers


@pytest.fixture
def word() -> Page:
    return page_of(words_block(("слово", (100, 60, 200, 100))))


def test_a_pdf_that_qpdf_refuses_is_drawn_with_its_text(word: Page) -> None:
    with pytest.raises(PdfError), Pdf.open(io.BytesIO(A_LOOP_OF_PAGES)) as pdf:
        len(pdf.pages)

    data, numbers = written(A_LOOP_OF_PAGES, word)

    assert numbers == [1]
    assert np.array_equal(drawn(data), drawn(plain_pdf()))
    assert np.allclose(dict(word_boxes(data))["слово"], (50, 30, 100, 50), atol=0.5)


def test_a_page_that_qpdf_lacks_is_drawn_and_the_others_are_kept(word: Page) -> None:
    data, numbers = written(plain_pdf(2), word, failed(3))

    assert numbers == [3]
    with Pdf.open(io.BytesIO(data)) as pdf:
        kept, blank = pdf.pages
        assert b"re f" in kept.Contents[-1].read_bytes()
        assert "/Contents" not in blank
        assert pdf.check_pdf_syntax() == []
    assert pdftotext(data).split() == ["слово"]


def test_drawn_pages_have_their_size_and_are_small(word: Page) -> None:
    data, numbers = written(plain_pdf(3), word, draw_all=True)

    assert numbers == [1]
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert [float(side) for side in pdf.pages[0].mediabox] == [0, 0, *SIZE]
    assert len(data) < 12_000


async def test_the_writer_says_that_pages_were_drawn(word: Page) -> None:
    spool = PageSpool()
    spool.add(PageContent(word))
    try:
        with await searchable_pdf(A_LOOP_OF_PAGES, spool, password=None, timeout_s=30) as file:
            assert (file.warnings, file.pages_drawn) == ((WarningCode.PAGES_DRAWN,), (1,))
            assert pdftotext(file.file.read()).split() == ["слово"]
        with await searchable_pdf(plain_pdf(), spool, password=None, timeout_s=30) as file:
            assert (file.warnings, file.pages_drawn) == ((), ())
    finally:
        spool.close()
