"""Writes a searchable PDF: the original pages with an invisible layer of the recognized text.

Pages of a PDF keep their content, vectors and text included; a JPEG is embedded byte for byte, other images without
loss. Active content (scripts, actions, media) and attached files are left out.
The source is untrusted: run this in a process whose crash or hang harms nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import BinaryIO

import pikepdf
from pikepdf import Pdf

from serve_app.document import Page
from serve_app.errors import EmptyDocument
from serve_app.outputs.drawn_pages import PageDrawer
from serve_app.outputs.existing_text import ExistingText
from serve_app.outputs.glyphless_font import InvisibleFont
from serve_app.outputs.image_pages import add_image_pages
from serve_app.outputs.pdf_layer import add_layer, pdf_errors
from serve_app.outputs.pdf_pages import add_pdf_pages, copy_catalog, copy_title
from serve_app.outputs.straightened import turn_pages
from serve_app.raster.images import HEADER_SEARCH_BYTES, sniff
from serve_app.raster.page_tree import page_indices
from serve_app.raster.passwords import open_with
from serve_app.runtime.mapped_file import map_file


def write_searchable_pdf(
    source: BinaryIO,
    pages: Iterable[Page],
    *,
    password: str | None,
    to: BinaryIO,
    straighten: bool = False,
    pdf_a: bool = False,
    draw_all: bool = False,
    draw: Container[int] = (),
) -> list[int]:
    """Write `pages` of the document `source` to `to`, as a PDF whose text can be searched.

    `source` is a file with a PDF or an image, as `open_source` takes them; a PDF is read only as far as needed.
    `pages` is a selection of its pages in the order of the result, and is iterated once. A page with an `error` gets
    its picture and no new text. Text that a PDF page shows stays, and words that it shows are not added again. Text that
    it hides, such as another OCR's, is replaced where something was recognized. With `straighten`, pages are turned so that
    their text is upright and level, and notes and fields become part of the pages. Title, author, subject, keywords,
    language and page labels stay. The result is not encrypted, and the same input gives the same bytes.

    With `pdf_a`, the result is PDF/A-2b, or PagesNotKept is raised; only the date in its metadata differs each time.

    A page that cannot be kept is drawn as a picture, and so is one whose position in the result, from 0, is in `draw`, and
    each with `draw_all`; returns the numbers of such pages of a PDF.
    Raises EmptyDocument (no bytes, no pages), UnsupportedMediaType, PasswordRequired, CorruptDocument and TooLarge;
    and whatever `pages` raises.
    """
    beginning = source.read(HEADER_SEARCH_BYTES)
    source.seek(0)
    if not beginning:
        raise EmptyDocument()
    kind = sniff(beginning)
    font = InvisibleFont()
    with Pdf.new() as result, ExitStack() as opened:
        if kind == "PDF":
            file = map_file(source)
            existing_text = opened.enter_context(closing(ExistingText(file, password)))
            drawer = opened.enter_context(closing(PageDrawer(file, password)))
            original = None if draw_all else _open_pdf(source, password)
            indices: Sequence[int | None] = ()
            if original is not None:
                opened.enter_context(original)
                with pdf_errors():
                    indices = _page_indices(original, existing_text, source, password)
            numbers: list[int] = []
            noted = _noted(pages, numbers)
            layers = add_pdf_pages(
                result, original, indices, noted, font, existing_text, drawer, straighten=straighten, draw=draw
            )
            if original is not None:
                copy_title(result, original)
                copy_catalog(result, original, numbers)
            drawn = drawer.numbers
        else:
            data = source.read()
            layers = add_image_pages(result, data, pages, font, straighten=straighten, decode_all=draw_all, decode=draw)
            drawn = []
        if not layers:
            raise EmptyDocument("There is no page to write.")
        with pdf_errors():
            faces = font.add_to(result)
            if any(layer.turn for layer in layers):
                turn_pages(result, [layer.turn for layer in layers])
            for page, layer in zip(result.pages, layers, strict=True):
                add_layer(result, page.obj, layer.name, layer.content, faces)
            if pdf_a:
                from serve_app.outputs.pdf_a import save_pdf_a  # takes a tenth of a second

                save_pdf_a(result, to)
                return drawn
            result.save(
                to,
                deterministic_id=True,
                object_stream_mode=pikepdf.ObjectStreamMode.generate,
                stream_decode_level=pikepdf.StreamDecodeLevel.none,  # copies compressed streams as they are
            )
    return drawn


def _noted(pages: Iterable[Page], numbers: list[int]) -> Iterator[Page]:
    for page in pages:
        numbers.append(page.number)
        yield page


def _page_indices(original: Pdf, read: ExistingText, source: BinaryIO, password: str | None) -> Sequence[int | None]:
    """Return for each page of the document, as it was read, its index among those that qpdf finds; see `page_indices`.

    In a file whose table of objects is damaged, qpdf mends the tree at once. It is trusted if the number of pages is right;
    otherwise no page has an index.
    """
    count = len(original.pages)
    if not read.is_of_mended_file:
        unmended = _open_pdf(source, password, mend=False)
        if unmended is not None:
            with unmended, suppress(pikepdf.PdfError):
                return page_indices(original, unmended)
        if read.page_count != count:
            return ()
    return range(count)


def _open_pdf(source: BinaryIO, password: str | None, *, mend: bool = True) -> Pdf | None:
    """Open the PDF with qpdf, which refuses some that PDFium reads. Returns None then. Without `mend`, it changes nothing."""

    def attempt(spelling: bytes) -> Pdf | None:
        source.seek(0)
        with suppress(pikepdf.PasswordError):
            return Pdf.open(source, password=spelling, attempt_recovery=mend, inherit_page_attributes=mend)
        return None

    try:
        return open_with(password, attempt)
    except pikepdf.PdfError:
        return None
