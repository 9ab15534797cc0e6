"""Turns the fields of a request into a DocumentRequest."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.ingress.requests.document_fields import DocumentFields
from serve_app.ingress.requests.engine_options import recognition_options, select_engine
from serve_app.outputs.formats import OutputFormat
from serve_app.outputs.options import DEFAULT, OutputOptions
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import EngineSettings


def document_request(
    fields: DocumentFields,
    engines: Sequence[EngineSettings],
    *,
    outputs: Sequence[OutputFormat] = (),
    output_options: OutputOptions = DEFAULT,
) -> DocumentRequest:
    """Make the DocumentRequest; `outputs` and their options are those of a job. Raises InvalidField for an engine that is not configured, and for options that it lacks."""
    engine = select_engine(fields, engines)
    return DocumentRequest(
        engine=engine.name,
        options=recognition_options(fields, engine),
        dpi=fields.dpi,
        password=fields.password,
        pages=fields.pages,
        max_pages=fields.max_pages,
        text_layer=fields.text_layer == "auto",
        restructure=fields.restructure,
        outputs=tuple(dict.fromkeys(outputs)),
        output_options=output_options,
    )
