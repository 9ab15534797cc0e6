"""Mends PDFs that PDFium refuses and other readers open.

Known kinds: a trailer that is cut off, and encryption that leaves strings in clear text (`/StrF /Identity`), which
PDFium takes for a wrong password.
"""

from __future__ import annotations

import io
import logging
from contextlib import suppress

from serve_app.raster.passwords import open_with
from serve_app.runtime.mapped_file import FileContent

_LOST_PAGE = "Pages tree includes non-dictionary object"
"""In qpdf's warning for a page that is missing. It drops the page, and no count of the pages is left to compare with."""


def repaired(data: FileContent, password: str | None) -> bytes | None:
    """Return the PDF as qpdf writes it, not encrypted. Returns None if qpdf cannot read it, and if pages are missing: a
    file that is cut off in its pages would lose the rest in silence.
    """
    import pikepdf  # takes a tenth of a second

    logging.getLogger("pikepdf").setLevel(logging.ERROR)

    def attempt(spelling: bytes) -> pikepdf.Pdf | None:
        with suppress(pikepdf.PasswordError):
            return pikepdf.open(io.BytesIO(data), password=spelling, suppress_warnings=True)
        return None

    try:
        pdf = open_with(password, attempt)
        if pdf is None:
            return None
        with pdf:
            if not pdf.pages or any(_LOST_PAGE in str(warning) for warning in pdf.get_warnings()):
                return None
            out = io.BytesIO()
            pdf.save(out, stream_decode_level=pikepdf.StreamDecodeLevel.none)
            return out.getvalue()
    except (pikepdf.PdfError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        return None
