"""DocumentRequest: the options for reading a document, the same for every API and for jobs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.document.options import RecognitionOptions
from serve_app.document.page_ranges import parse_page_ranges, select_pages
from serve_app.outputs.formats import OutputFormat
from serve_app.outputs.options import DEFAULT, OutputOptions


class DocumentRequest(BaseModel):
    """The options for reading a document, without its owner and time limit.

    Job records contain it, so a new field needs a default. Earlier versions stored `keep_native` as `paddlex`.
    """

    model_config = ConfigDict(frozen=True)

    engine: str
    options: RecognitionOptions
    dpi: int | None = Field(None, description="Resolution to draw PDF pages at, or to assume for images")
    pdf_dpi: int | None = Field(None, description="Resolution for PDF pages only; takes precedence over `dpi`")
    password: str | None = Field(None, repr=False)
    pages: str | None = Field(None, description="Pages to read, as `parse_page_ranges` takes them; None: all")
    max_pages: int | None = Field(None, description="Refuse the document if it has more pages to read")
    text_layer: bool = Field(False, description="Use the text that a PDF page contains, instead of recognizing it")
    restructure: bool = Field(True, description="Join tables and level headings across pages")
    keep_native: bool = Field(False, description="Also store pages in the engine's native form, if it has one")
    outputs: tuple[OutputFormat, ...] = Field((), description="Further formats for a job to store")
    output_options: OutputOptions = Field(DEFAULT, description="How a job writes them")

    @model_validator(mode="before")
    @classmethod
    def _rename_stored_fields(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "paddlex" in fields:
            fields = {**fields, "keep_native": fields["paddlex"]}
        return fields

    def dpi_for(self, file_kind: str) -> int | None:
        """Return the resolution for a file of this kind (see `sniff`)."""
        return (self.pdf_dpi if file_kind == "PDF" else None) or self.dpi

    def page_numbers(self, page_count: int) -> list[int]:
        """Return the numbers of the pages to read, ascending. Raises ValueError with a message for the client."""
        if self.pages is None:
            return list(range(1, page_count + 1))
        return select_pages(parse_page_ranges(self.pages), page_count)
