"""The fields of requests with a document, as pydantic models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.document.options import ParsingOptions
from serve_app.document.page_ranges import parse_page_ranges
from serve_app.outputs.formats import OutputFormat
from serve_app.outputs.options import OutputOptions


class DocumentFields(BaseModel):
    """The document and how to read it: fields of a JSON body or a form. Exactly one source is required."""

    model_config = ConfigDict(extra="forbid")

    image_base64: str | None = Field(
        None, description="The document (a PDF or an image) as base64, plain or as a data: URI"
    )
    image_url: str | None = Field(None, description="An http or https URL of the document")
    language: str | None = Field(
        None, max_length=100, description="Languages of the text, joined by '+' (`rus+eng`); default: all configured"
    )
    engine: str | None = Field(None, max_length=100, description="Engine to use; default: the first configured")
    dpi: int | None = Field(
        None,
        ge=50,
        le=1200,
        description="Resolution in dots per inch at which PDF pages are rendered; for an image, it replaces the resolution in the file",
    )
    pages: str | None = Field(
        None, max_length=1000, description="Pages to read, such as `1-3,7` or `5-`; default: all", examples=["1-3,7"]
    )
    password: str | None = Field(
        None, max_length=1000, pattern=r"^[^\x00]*$", description="Password of an encrypted PDF"
    )
    max_pages: int | None = Field(
        None, ge=1, description="Refuse the document if more pages would be read; the service has a limit too"
    )
    text_layer: Literal["auto", "ignore"] = Field(
        "ignore", description="`auto`: take the text of PDF pages that contain it, and recognize only their pictures"
    )
    restructure: bool = Field(
        True,
        description="Join tables that continue across pages and set heading levels, if the engine supports it",
    )
    overlay: bool = Field(
        False, description="Add a picture of each recognized page with its blocks outlined, as a figure"
    )
    flatten: Literal["auto", "true", "false"] = Field(
        "auto",
        description="Flatten a sheet of paper photographed on a darker table: `auto`, if it is in perspective; `true`, "
        "also if it is not; the engine `paddleocr-vl` has options of its own",
    )
    options: ParsingOptions | None = Field(
        None, description="How the engine `paddleocr-vl` reads pages; in a form, a JSON object as text"
    )

    @field_validator("dpi", "max_pages", mode="before")
    @classmethod
    def _whole_number(cls, number: Any) -> Any:
        if isinstance(number, bool):  # for pydantic, true is 1
            raise ValueError("must be a whole number")
        return number

    @field_validator("flatten", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool | str) else value  # some clients send "True" in a form

    @field_validator("pages")
    @classmethod
    def _check_pages(cls, pages: str | None) -> str | None:
        if pages is not None:
            parse_page_ranges(pages)
        return pages


class OutputFields(DocumentFields):
    """Also how to write the result, whatever its format: an option that does not concern it has no effect."""

    straighten: bool = Field(
        False, description="Turn the pages of the searchable PDF so that their text is upright and level"
    )
    pdf_a: bool = Field(False, description="Write the searchable PDF as PDF/A-2b, for archives")
    page_marks: bool = Field(False, description="Mark where each page begins in Markdown and text, with its number")

    def output_options(self) -> OutputOptions:
        return OutputOptions(page_marks=self.page_marks, straighten=self.straighten, pdf_a=self.pdf_a)


class OcrRequest(OutputFields):
    output: OutputFormat | None = Field(
        None, description="Format of the response; default: the one that `Accept` selects, or JSON"
    )
    include_images: bool = Field(
        False, description="Include pictures in the response: as base64 in JSON, inline in Markdown"
    )

    def output_options(self) -> OutputOptions:
        return replace(super().output_options(), include_images=self.include_images)


class FileField(BaseModel):
    """The field that only forms have."""

    file: bytes | None = Field(None, description="The document as a file", json_schema_extra={"format": "binary"})


class OcrForm(OcrRequest, FileField):
    """The fields of POST /ocr in a form."""
