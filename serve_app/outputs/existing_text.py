"""Finds out which text the pages of a PDF have already."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from serve_app.errors import ServiceError
from serve_app.raster.pdf import PdfSource
from serve_app.runtime.mapped_file import FileContent

_GLANCE: dict[str, Any] = {"dpi": 72, "default_dpi": 72, "max_pixels": 10**7}


class ExistingText:
    """Finds the pages whose visible text can already be searched."""

    def __init__(self, data: FileContent, password: str | None) -> None:
        self._document: PdfSource | None = None
        with suppress(ServiceError):  # PDFium cannot read the file, so no page counts as searchable
            self._document = PdfSource(data, password)

    def is_on(self, number: int) -> bool:
        try:
            return self._document is not None and self._document.text_page(number, **_GLANCE) is not None
        except ServiceError:
            return False

    def close(self) -> None:
        if self._document is not None:
            self._document.close()
