"""The DocumentRequest of each API has every option of its request."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.errors import InvalidField
from serve_app.ingress.requests.document_fields import OcrRequest
from serve_app.ingress.requests.document_request import document_request
from serve_app.outputs.formats import OutputFormat
from serve_app.paddlex.engine_options import layout_request, lines_request
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import Settings

SETTINGS = Settings.model_validate(
    {"engines": [{"name": "tesseract", "languages": ["rus", "eng"]}, {"name": "paddleocr-vl"}, {"name": "dummy"}]}
)


@pytest.mark.parametrize(
    ("sent", "requested"),
    [
        ({}, {}),
        ({"engine": "dummy"}, {"engine": "dummy"}),
        ({"language": "eng"}, {"options": RecognitionOptions(languages=("eng",))}),
        ({"overlay": True}, {"options": RecognitionOptions(overlay=True)}),
        ({"flatten": "true"}, {"options": RecognitionOptions(flatten="true")}),
        ({"dpi": 300}, {"dpi": 300}),
        ({"password": "x"}, {"password": "x"}),
        ({"pages": "1-3"}, {"pages": "1-3"}),
        ({"max_pages": 3}, {"max_pages": 3}),
        ({"text_layer": "auto"}, {"text_layer": True}),
        ({"restructure": False}, {"restructure": False}),
    ],
)
def test_each_field_of_a_request_reaches_the_document(sent: dict[str, Any], requested: dict[str, Any]) -> None:
    expected = {"engine": "tesseract", "options": RecognitionOptions(), **requested}
    fields = OcrRequest.model_validate({"image_url": "http://example.com", **sent})
    assert document_request(fields, SETTINGS.engines) == DocumentRequest(**expected)


def test_formats_of_a_job_are_stored_once_each() -> None:
    fields = OcrRequest(image_url="http://example.com")
    outputs = [OutputFormat.PDF, OutputFormat.TEXT, OutputFormat.PDF]
    requested = document_request(fields, SETTINGS.engines, outputs=outputs)
    assert requested.outputs == (OutputFormat.PDF, OutputFormat.TEXT)


def test_an_engine_that_is_not_configured_is_refused() -> None:
    with pytest.raises(InvalidField, match="engine"):
        document_request(OcrRequest(image_url="http://example.com", engine="other"), SETTINGS.engines)


def test_layout_parsing_reads_with_the_layout_engine_and_keeps_its_native_form() -> None:
    fields = LayoutParsingFields(use_chart_recognition=True, visualize=True, restructure_pages=True)
    parsing = ParsingOptions(use_chart_recognition=True, prettify_markdown=True)
    assert layout_request(SETTINGS, fields, pages="2-") == DocumentRequest(
        engine="paddleocr-vl",
        options=RecognitionOptions(parsing=parsing, overlay=True, picture=True),
        pdf_dpi=144,
        pages="2-",
        restructure=True,
        keep_native=True,
    )
    assert layout_request(SETTINGS, LayoutParsingFields()).restructure is False


def test_lines_are_read_with_the_first_engine() -> None:
    assert lines_request(SETTINGS, LinesFields(), pages="2-") == DocumentRequest(
        engine="tesseract", options=RecognitionOptions(), pdf_dpi=144, pages="2-", restructure=False
    )


@pytest.mark.parametrize(("kind", "dpi"), [("PDF", 144), ("TIFF", 300), ("PNG", 300)], ids=lambda each: str(each))
def test_the_resolution_for_pdf_applies_to_pdf_only(kind: str, dpi: int) -> None:
    request = DocumentRequest(engine="x", options=RecognitionOptions(), dpi=300, pdf_dpi=144)
    assert request.dpi_for(kind) == dpi


@pytest.mark.parametrize(("sent", "meant"), [(True, "true"), ("True", "true"), (False, "false"), ("AUTO", "auto")])
def test_flatten_is_taken_as_programs_spell_it(sent: object, meant: str) -> None:
    assert OcrRequest.model_validate({"flatten": sent}).flatten == meant
    with pytest.raises(ValidationError):
        OcrRequest.model_validate({"flatten": "maybe"})
