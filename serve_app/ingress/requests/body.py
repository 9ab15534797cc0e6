"""Reads a request's body within limits: JSON, multipart or urlencoded."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from serve_app.errors import InvalidRequest, TooLarge, UnsupportedMediaType, UploadStalled
from serve_app.ingress.requests.multipart import FormParser
from serve_app.ingress.requests.off_loop import run_off_loop
from serve_app.ingress.requests.validation_errors import field_error
from serve_app.runtime.mapped_file import MAPPED_BYTES, FileContent, map_file

MAX_JSON_PARTS = 1000
"""Most commas, brackets and braces of a JSON body. A body is a flat object of a few fields, and base64 has none of these."""

MAX_FORM_FIELDS = 20
MAX_FORM_FILES = 2
"""One more than allowed, so that a second file gets a clear error."""

MAX_ESCAPES = 2_000_000
"""Most characters written as %XX in an urlencoded form: base64 of 50 MB, from curl's --data-urlencode, has 1.5 million."""

MAX_FILE_NAME = 255
MAX_OPTIONS_TEXT = 10_000

MIN_BYTES_PER_S = 16_000
"""Least average pace of an upload, besides its allowed pause."""

AS_A_FILE = "the document as the field 'file' of multipart/form-data (curl: -F file=@name)"

CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "latin-1")


@dataclass(frozen=True)
class Body:
    """A body that has been read but not validated. `file` is a form's file; `file_name` is its name without a path."""

    fields: dict[str, Any]
    file: FileContent | None
    is_json: bool
    file_name: str | None = None


async def read_body(request: Request, *, max_bytes: int, stall_s: float, max_json_parts: int = MAX_JSON_PARTS) -> Body:
    """Read a body: JSON, multipart or urlencoded.

    Checks the size before and while the body arrives. `stall_s` is the longest pause. Raises InvalidRequest,
    InvalidField, TooLarge, UnsupportedMediaType, UploadStalled, and ClientDisconnect if the client disconnects.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed request bodies are not supported.")
    too_large = TooLarge(f"The request is larger than {max_bytes / 1e6:g} MB.")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise InvalidRequest("Content-Length is not a number.")
    if int(length) > max_bytes:
        raise too_large
    request = Request(request.scope, _limit(request.receive, max_bytes, too_large, stall_s))

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return await _read_json(request, max_json_parts)
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _read_form(request, max_bytes)
    if not kind and length == "0":
        raise InvalidRequest("The request has no body.")
    raise UnsupportedMediaType(f"Send application/json, or {AS_A_FILE}.")


def _limit(receive: Receive, max_bytes: int, too_large: TooLarge, stall_s: float) -> Receive:
    received = 0
    waited_s = 0.0  # for the client only: what the service does with a part in between is not the client's pause

    async def receive_within_limits() -> Message:
        nonlocal received, waited_s
        left_s = stall_s + received / MIN_BYTES_PER_S - waited_s
        started = time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), min(stall_s, left_s))
        except TimeoutError:
            raise UploadStalled(f"The body stopped arriving for {stall_s:g} s, or arrived too slowly.") from None
        waited_s += time.monotonic() - started
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
    fields = await run_off_loop(len(body), partial(_parse_json, max_parts=max_parts), body)
    return Body(fields, None, is_json=True)


def _parse_json(body: bytes, *, max_parts: int) -> dict[str, Any]:
    # Parsing millions of small values would block the interpreter, and with it every other request, for seconds.
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
        raise InvalidRequest("A JSON object has the same field twice.")
    return fields


async def _read_form(request: Request, max_bytes: int) -> Body:
    kind, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").decode("latin-1").lower() not in CHARSETS:
        raise InvalidRequest("The form's charset is not supported; send UTF-8.")
    try:
        if kind == b"multipart/form-data":
            parser = FormParser(
                request.headers,
                request.stream(),
                max_files=MAX_FORM_FILES,
                max_fields=MAX_FORM_FIELDS,
                max_part_size=max_bytes,
            )
            form = await parser.parse()
        else:
            body = await request.body()
            form = await run_off_loop(len(body), _parse_urlencoded, body)
    except (HTTPException, MultiPartException, UnicodeError):
        raise InvalidRequest(f"The form could not be read. Send {AS_A_FILE}, or application/json.") from None
    try:
        fields, file = _form_fields(form)
        content: FileContent | None = None
        if file is not None:  # a large file is already on disk and stays there
            content = map_file(file.file) if (file.size or 0) > MAPPED_BYTES else await file.read()
        return Body(fields, content, is_json=False, file_name=_file_name(file))
    finally:
        await form.close()


def _parse_urlencoded(body: bytes) -> FormData:
    if body.count(b"&") >= MAX_FORM_FIELDS or body.count(b"%") > MAX_ESCAPES:
        raise InvalidRequest(f"The form has too many fields or escapes. Send {AS_A_FILE}.")
    pairs: list[tuple[str, str | UploadFile]] = [*parse_qsl(body.decode(), keep_blank_values=True, errors="strict")]
    return FormData(pairs)


def _file_name(file: UploadFile | None) -> str | None:
    """Return the file's name without a path and without unprintable characters."""
    name = (file.filename or "") if file is not None else ""
    printable = "".join(character for character in re.split(r"[/\\]", name)[-1] if character.isprintable())
    return printable[-MAX_FILE_NAME:] or None


def _form_fields(form: FormData) -> tuple[dict[str, Any], UploadFile | None]:
    fields: dict[str, Any] = {}
    file: UploadFile | None = None
    seen = set()
    for name, value in form.multi_items():
        if name in seen:
            raise field_error(name, "is sent twice")
        seen.add(name)
        if isinstance(value, UploadFile):
            if name != "file":
                raise field_error(name, "must not be a file; send the file as 'file'")
            file = value
        elif name == "file":
            raise field_error(name, "must be sent as a file (curl: -F file=@name)")
        elif value:  # browsers also send empty fields
            fields[name] = _object_of(name, value) if name == "options" else value
    return fields, file


def _object_of(name: str, text: str) -> Any:
    """Parse a form field that has a JSON object as text."""
    if len(text) > MAX_OPTIONS_TEXT:
        raise field_error(name, f"may have at most {MAX_OPTIONS_TEXT} characters")
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise field_error(name, "is not a JSON object") from None
