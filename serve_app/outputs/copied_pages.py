"""Copies pages of a PDF with what the document has for them: fields, destinations, layers, bookmarks."""

from __future__ import annotations

from collections.abc import Mapping

from pikepdf import Pdf

from serve_app.outputs.pdf_layer import ODD_PDF
from serve_app.outputs.writer_exit import PagesNotKept

_OF_DOCUMENT = ("/AcroForm", "/Names", "/Dests", "/OCProperties", "/Outlines")


def copy_pages(result: Pdf, original: Pdf, indices: Mapping[int, int]) -> None:
    """Copy pages to the end of an empty PDF. Nothing outside them is copied, such as attached files.

    `indices` has for positions in the document that is written, in their order, those in `original`.
    Raises PagesNotKept if some pages are too odd to be copied. Bookmarks that are odd are left out.
    """
    try:
        result.add_pages_from(original, indices.values())
    except ODD_PDF as error:
        odd = [position for position, index in indices.items() if not _can_be_copied(original, index)]
        if odd:
            raise PagesNotKept(odd) from error
        del result.pages[:]
        for key in _OF_DOCUMENT:
            if key in result.Root:
                del result.Root[key]
        result.add_pages_from(original, indices.values(), outlines="ignore")


def _can_be_copied(original: Pdf, index: int) -> bool:
    with Pdf.new() as alone:
        try:
            alone.add_pages_from(original, [index], outlines="ignore")
        except ODD_PDF:
            return False
    return True
