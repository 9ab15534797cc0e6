"""Validates a body as this service's own request, and takes the document from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.errors import EmptyDocument, FieldError, InvalidField
from serve_app.ingress.requests.base64_text import decode_off_loop
from serve_app.ingress.requests.body import Body
from serve_app.ingress.requests.document_fields import DocumentFields, OcrForm
from serve_app.ingress.requests.validation_errors import field_error, fields_error
from serve_app.runtime.mapped_file import FileContent

SOURCES = ("image_base64", "image_url", "file")

Fields = TypeVar("Fields", bound=DocumentFields)


@dataclass(frozen=True)
class Submission(Generic[Fields]):
    """A validated request. `source` is the document's content, or None if it is at `image_url`."""

    request: Fields
    source: FileContent | None


async def submission_of(body: Body, kind: type[Fields], form: type[BaseModel] = OcrForm) -> Submission[Fields]:
    """Validate a body as a request of type `kind`; `form` describes its fields in errors.

    Raises InvalidField, InvalidBase64 and EmptyDocument.
    """
    fields, file = body.fields, body.file
    if body.is_json and "file" in fields:
        raise field_error("file", "is for uploads; in JSON send the document as 'image_base64' or 'image_url'")
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        raise fields_error(error, form) from None
    sources = [name for name in SOURCES[:2] if getattr(request, name) is not None] + (
        ["file"] if file is not None else []
    )
    if not sources:
        raise InvalidField(f"Send the document as one of: {', '.join(SOURCES)}.")
    if len(sources) > 1:
        raise InvalidField(
            f"Send one document at a time; this request has {' and '.join(sources)}.",
            fields=tuple(FieldError(name, "only one source is allowed") for name in sources),
        )
    source = file
    if request.image_base64 is not None:
        source = await decode_off_loop(request.image_base64)
    if source is not None and not source:
        raise EmptyDocument
    return Submission(request, source)
