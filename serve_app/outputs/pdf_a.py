"""Saves a PDF as PDF/A-2b (ISO 19005-2), the form for archives, and checks what was written."""

from __future__ import annotations

import logging
from typing import BinaryIO

from pikepdf import Pdf, pdfa

from serve_app.errors import CorruptDocument

FLAVOUR = "2b"

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of fonts whose date is not set


def save_pdf_a(pdf: Pdf, to: BinaryIO) -> None:
    """Write `pdf` to `to`, with metadata and a colour profile (sRGB) that say how it looks.

    Hidden notes are removed. Raises CorruptDocument if pages have what PDF/A does not allow or the validator does not know,
    such as fonts that are not embedded, form fields or inks; drawn as pictures, they have not.
    """
    try:
        pdfa.save(pdf, to, FLAVOUR, deterministic_id=True)
    except pdfa.PdfaError as error:
        raise CorruptDocument("The document has pages that cannot be kept in PDF/A.") from error
