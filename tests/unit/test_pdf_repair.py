"""PDFs that PDFium refuses and qpdf opens are read and written as others are."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import pikepdf
import pypdfium2 as pdfium
import pytest

from serve_app.errors import CorruptDocument, PasswordRequired
from serve_app.raster.page_source import open_source
from tests.support.pdfs import encrypted, page_pdf, pages_pdf, text_pdf
from tests.support.searchable_pdfs import page_of, pdftotext, searchable, words_block

PASSWORD = "secret"
LETTER = [(40, 120, 16, "Письмо с приложением")]


def cut_off_in_the_trailer() -> bytes:
    data = text_pdf(LETTER, size=(300, 200))
    return data[: data.index(b"trailer")] + b"trailer\n<</Root 1 0 R/Size 9/ID[<904e5a\xe4\x9e\xc1"


def without_its_first_line() -> bytes:
    data = text_pdf(LETTER, size=(300, 200))
    return b"%\xe2\xe3\xcf\xd3\r\n" + data[data.index(b"1 0 obj") :]


def with_strings_in_clear_text(password: str = PASSWORD) -> bytes:
    # Streams are encrypted, strings are not, which is the default if a file does not say.
    data = encrypted(text_pdf(LETTER, size=(300, 200)), password, revision=4)
    assert data.count(b"/StrF /StdCF") == 1
    return data.replace(b"/StrF /StdCF", b"            ")


@pytest.mark.parametrize(
    ("make", "password"),
    [
        (cut_off_in_the_trailer, None),
        (without_its_first_line, None),
        (with_strings_in_clear_text, PASSWORD),
        (partial(with_strings_in_clear_text, ""), None),
    ],
    ids=["trailer", "first-line", "strings", "strings-no-password"],
)
def test_a_pdf_that_pdfium_refuses_is_read_and_written(make: Callable[[], bytes], password: str | None) -> None:
    data = make()
    with pytest.raises(pdfium.PdfiumError):
        pdfium.PdfDocument(data, password=password)

    source = open_source(data, password=password, max_pixels=10**7)

    assert source.page_count == 1
    picture = source.render(1, dpi=144, default_dpi=144, max_pixels=10**7).pixels
    assert picture.shape == (400, 600, 3) and picture.min() < 50
    page = page_of(words_block(("печать", (300, 300, 400, 340))), dpi=144)
    result = searchable(data, page, password=password)
    assert "Письмо с приложением" in pdftotext(result)
    assert not pikepdf.open(io.BytesIO(result)).is_encrypted


def test_what_cannot_be_mended_is_refused_for_its_own_reason() -> None:
    with pytest.raises(PasswordRequired, match="Send its password"):
        open_source(with_strings_in_clear_text(), password=None, max_pixels=10**7)
    with pytest.raises(PasswordRequired, match="password is wrong"):
        open_source(with_strings_in_clear_text(), password="другая", max_pixels=10**7)
    for cut in (page_pdf(b"")[:60], pages_pdf([b""] * 20)[:600]):  # the second has two of its pages
        with pytest.raises(CorruptDocument, match="could not be opened"):
            open_source(cut, password=None, max_pixels=10**7)
