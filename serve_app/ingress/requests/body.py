"""From a request's body to the document's bytes and its options, within limits, whatever its form."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from serve_app.document.options import ParsingOptions
from serve_app.document.page_ranges import parse_page_ranges
from serve_app.errors import (
    EmptyDocument,
    FieldError,
    InvalidBase64,
    InvalidField,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
    UploadStalled,
)
from serve_app.ingress.requests.validation_errors import field_error, fields_error
from serve_app.outputs.formats import OutputFormat
from serve_app.runtime.mapped_file import MAPPED_BYTES, FileContent, mapped

# A body is a flat object of a handful of fields; base64 holds none of the characters that are counted.
MAX_JSON_PARTS = 1000
MAX_FORM_FIELDS = 20
MAX_FILE_NAME = 255
MAX_OPTIONS_TEXT = 10_000
MAX_FORM_FILES = 2  # one too many is a clear 422, more are not worth reading
# Above this, parsing and decoding leave the event loop to others.
THREAD_BYTES = 256 * 1024
# An upload may pause for `stall_s`, but not trickle for ever: beyond that it must have kept this pace.
LEAST_BYTES_PER_S = 16_000
CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "latin-1")
SOURCES = ("image_base64", "image_url", "file")


class DocumentFields(BaseModel):
    """The document, and how it is to be read: fields of a JSON body or a form; exactly one source is needed."""

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
        description="Dots per inch to draw a PDF's pages at; of an image, what its file should say",
    )
    pages: str | None = Field(
        None, max_length=1000, description="Pages to read, such as `1-3,7` or `5-`; default: all", examples=["1-3,7"]
    )
    password: str | None = Field(
        None, max_length=1000, pattern=r"^[^\x00]*$", description="Password of an encrypted PDF"
    )
    max_pages: int | None = Field(
        None, ge=1, description="Refuse the document if it has more pages; the service has a limit of its own"
    )
    text_layer: Literal["auto", "ignore"] = Field(
        "ignore", description="`auto`: pages of a PDF that have text of their own are not recognized"
    )
    restructure: bool = Field(
        True,
        description="Across pages, join tables that go on and set the levels of headings, where the engine can",
    )
    overlay: bool = Field(False, description="A picture of each recognized page with its blocks marked, as figures are")
    options: ParsingOptions | None = Field(
        None, description="How the engine `paddleocr-vl` reads the page; in a form, as the text of a JSON object"
    )

    @field_validator("pages")
    @classmethod
    def _ranges(cls, pages: str | None) -> str | None:
        if pages is not None:
            parse_page_ranges(pages)
        return pages


class OcrRequest(DocumentFields):
    output: OutputFormat | None = Field(
        None, description="Form of the answer; default: what `Accept` asks for, or JSON"
    )
    include_images: bool = Field(False, description="Pictures within the answer: in JSON as base64, in Markdown inline")


class FileField(BaseModel):
    """What a form has beside the fields of JSON."""

    file: bytes | None = Field(None, description="The document as a file", json_schema_extra={"format": "binary"})


class OcrForm(OcrRequest, FileField):
    """The same as a form."""


Asked = TypeVar("Asked", bound=DocumentFields)


@dataclass(frozen=True)
class Submission(Generic[Asked]):
    """What a client sent: the options, and the document's bytes unless they are behind `image_url`."""

    request: Asked
    source: FileContent | None


@dataclass(frozen=True)
class Body:
    """What a client sent, not looked at yet; `file` is a form's, `file_name` what the client calls it: never a path."""

    fields: dict[str, Any]
    file: FileContent | None
    is_json: bool
    file_name: str | None = None


async def read_body(request: Request, *, max_bytes: int, stall_s: float, max_json_parts: int = MAX_JSON_PARTS) -> Body:
    """Read a body: JSON, multipart or urlencoded.

    The size is checked before and while the body arrives. Raises InvalidRequest, InvalidField, TooLarge,
    UnsupportedMediaType, UploadStalled, and ClientDisconnect when the client is gone.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed request bodies are not accepted.")
    too_large = TooLarge(f"The request is larger than {max_bytes / 1e6:g} MB.")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise InvalidRequest("Content-Length is not a number.")
    if int(length) > max_bytes:
        raise too_large
    request = Request(request.scope, _limited(request.receive, max_bytes, too_large, stall_s))

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return await _read_json(request, max_json_parts)
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _read_form(request, max_bytes)
    if not kind and length == "0":
        raise InvalidRequest("The request has no body.")
    raise UnsupportedMediaType("Send application/json, multipart/form-data or application/x-www-form-urlencoded.")


def _limited(receive: Receive, max_bytes: int, too_large: TooLarge, stall_s: float) -> Receive:
    received = 0
    started = time.monotonic()

    async def receive_within_limits() -> Message:
        nonlocal received
        left_s = started + stall_s + received / LEAST_BYTES_PER_S - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), min(stall_s, left_s))
        except TimeoutError:
            raise UploadStalled(f"The body stopped arriving for {stall_s:g} s, or arrived too slowly.") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return receive_within_limits


async def _read_json(request: Request, max_parts: int) -> Body:
    body = await request.body()
    if not body.strip():
        raise InvalidRequest("The request has no body.")
    fields = await _off_loop(len(body), partial(_parse_json, max_parts=max_parts), body)
    return Body(fields, None, is_json=True)


def _parse_json(body: bytes, *, max_parts: int) -> dict[str, Any]:
    # Parsing millions of small values would hold the interpreter, and with it every other request, for seconds.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > max_parts:
        raise InvalidRequest("The JSON body has too many parts.")
    try:
        fields = json.loads(body, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):  # ValueError: bad JSON, bad UTF-8, a number of 10,000 digits
        raise InvalidRequest("The body is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return fields


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("A field stands twice in the JSON body.")
    return fields


async def _read_form(request: Request, max_bytes: int) -> Body:
    _, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").decode("latin-1").lower() not in CHARSETS:
        raise InvalidRequest("The form's charset is not supported; send UTF-8.")
    try:
        form = await request.form(max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FIELDS, max_part_size=max_bytes)
    except (HTTPException, MultiPartException, UnicodeError):
        raise InvalidRequest("The form could not be read.") from None
    try:
        fields, file = _form_fields(form)
        content = await _content(file) if file is not None else None
        return Body(fields, content, is_json=False, file_name=_file_name(file))
    finally:
        await form.close()


def _file_name(file: UploadFile | None) -> str | None:
    """The name alone, fit to be shown."""
    name = (file.filename or "") if file is not None else ""
    printable = "".join(character for character in re.split(r"[/\\]", name)[-1] if character.isprintable())
    return printable[-MAX_FILE_NAME:] or None


async def _content(file: UploadFile) -> FileContent:
    """What was uploaded. What is large is on disk already, and stays there."""
    return mapped(file.file) if (file.size or 0) > MAPPED_BYTES else await file.read()


def _form_fields(form: FormData) -> tuple[dict[str, Any], UploadFile | None]:
    fields: dict[str, Any] = {}
    file: UploadFile | None = None
    seen = set()
    for name, value in form.multi_items():
        if name in seen:
            raise field_error(name, "is given twice")
        seen.add(name)
        if isinstance(value, UploadFile):
            if name != "file":
                raise field_error(name, "may not be a file; send the file as 'file'")
            file = value
        elif name == "file":
            raise field_error(name, "must be sent as a file (curl: -F file=@name)")
        elif value:  # browsers send the fields that were left empty
            fields[name] = _object_of(name, value) if name == "options" else value
    return fields, file


def _object_of(name: str, text: str) -> Any:
    """A form has no objects: there the options are the text of one."""
    if len(text) > MAX_OPTIONS_TEXT:
        raise field_error(name, f"may have at most {MAX_OPTIONS_TEXT} characters")
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise field_error(name, "is not a JSON object") from None


async def submission_of(body: Body, kind: type[Asked], form: type[BaseModel] = OcrForm) -> Submission[Asked]:
    """The service's own form of a request, of this kind. Raises InvalidField, InvalidBase64 and EmptyDocument."""
    fields, file = body.fields, body.file
    if body.is_json and "file" in fields:
        raise field_error("file", "is an upload; in JSON send the document as 'image_base64' or 'image_url'")
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        raise fields_error(error, form) from None
    given = [name for name in SOURCES[:2] if getattr(request, name) is not None] + (
        ["file"] if file is not None else []
    )
    if not given:
        raise InvalidField(f"Send the document as one of: {', '.join(SOURCES)}.")
    if len(given) > 1:
        raise InvalidField(
            f"Send one document at a time; this request has {' and '.join(given)}.",
            fields=tuple(FieldError(name, "only one source may be given") for name in given),
        )
    source = file
    if request.image_base64 is not None:
        source = await decoded(request.image_base64)
    if source is not None and not source:
        raise EmptyDocument
    return Submission(request, source)


async def decoded(text: str) -> bytes:
    """`decode_base64`, where it does not keep others waiting."""
    decoded: bytes = await _off_loop(len(text), decode_base64, text)
    return decoded


def decode_base64(text: str) -> bytes:
    """Decode base64, standard or URL-safe, with any whitespace, plain or in a data: URI.

    Raises InvalidBase64 for a wrong alphabet or wrong padding.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidBase64("The data: URI is not base64.")
    try:
        compact = text.encode("ascii").translate(_URL_SAFE, delete=b" \t\r\n\v\f")
        if len(compact) % 4:  # strict_mode lets some wrong padding through
            raise InvalidBase64
        return binascii.a2b_base64(compact, strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise InvalidBase64 from None


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


async def _off_loop(size: int, function: Any, argument: Any) -> Any:
    return await asyncio.to_thread(function, argument) if size > THREAD_BYTES else function(argument)
