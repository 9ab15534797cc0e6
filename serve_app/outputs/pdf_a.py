"""Saves a PDF as PDF/A-2b (ISO 19005-2), the form for archives, and checks what was written."""

from __future__ import annotations

import logging
from typing import BinaryIO

from pikepdf import Pdf, pdfa

from serve_app.errors import CorruptDocument
from serve_app.outputs.writer_exit import PagesNotKept

FLAVOUR = "2b"

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of fonts whose date is not set


def save_pdf_a(pdf: Pdf, to: BinaryIO) -> None:
    """Write `pdf` to `to`, with metadata and a colour profile (sRGB) that say how it looks.

    Hidden notes are removed. Raises PagesNotKept if pages have what PDF/A does not allow or the validator does not know,
    such as fonts that are not embedded, form fields or inks; drawn as pictures, they have not. Raises CorruptDocument if
    no page has it and still the document has.
    """
    try:
        pdfa.save(pdf, to, FLAVOUR, deterministic_id=True)
    except pdfa.PdfaError as error:
        positions = [position for position in range(len(pdf.pages)) if not _can_be_kept(pdf, position)]
        if positions:
            raise PagesNotKept(positions) from error
        raise CorruptDocument("The document cannot be kept in PDF/A.") from error


def _can_be_kept(pdf: Pdf, position: int) -> bool:
    """Whether the page, in a document of its own, is PDF/A. Takes a tenth of a second."""
    with Pdf.new() as alone:
        alone.add_pages_from(pdf, [position])
        pdfa.prepare(alone, FLAVOUR)
        return pdfa.check(alone, FLAVOUR, deterministic_id=True).passed
