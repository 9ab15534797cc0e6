"""PaddleX's self-hosted API: POST /layout-parsing, POST /restructure-pages, and POST /ocr with a `file` in JSON."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, BinaryIO, TypeVar, cast

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ValidationError

from serve_app.document import DocumentSummary, NativePage
from serve_app.document.ids import document_folder
from serve_app.document.warnings import NOT_RESTRUCTURED
from serve_app.errors import InvalidField, ServiceError, TooManyPages, UnsupportedMediaType
from serve_app.ingress.context import Context, context_of, request_deadline
from serve_app.ingress.middleware.request_scope import mark_paddlex, request_id_of
from serve_app.ingress.requests.base64_text import decode_off_loop
from serve_app.ingress.requests.body import Body, read_body
from serve_app.ingress.requests.schema import inline_references
from serve_app.ingress.requests.submission import SOURCES
from serve_app.ingress.requests.validation_errors import fields_error
from serve_app.ingress.responses.files import file_response, warning_headers
from serve_app.outputs.rendering import BYTES_IN_MEMORY
from serve_app.paddlex.engine_options import is_preprocessed, layout_request, lines_request
from serve_app.paddlex.exports import export_spool, export_uploaded
from serve_app.paddlex.requests import MAX_LOG_ID, LayoutParsingRequest, LinesRequest, RestructureRequest
from serve_app.paddlex.responses import (
    Picture,
    inline_picture,
    layout_parsing_results,
    native_pages,
    ocr_results,
    response_images,
    write_pages,
    write_restructured,
)
from serve_app.paddlex.restructuring import restructure_pages, restructuring_of
from serve_app.paddlex.uploaded_pages import check_size
from serve_app.pipeline.document_run import DocumentRun
from serve_app.pipeline.documents import CHOOSE_PAGES
from serve_app.pipeline.request import DocumentRequest
from serve_app.pipeline.timings import Timings
from serve_app.runtime.allocator import trim_heap
from serve_app.runtime.end_line import note
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.ingress")
router = APIRouter(tags=["paddlex"])

MAX_RESTRUCTURED_PARTS = 3_000_000
"""Parts of JSON in pages to restructure: six hundred pages of a hundred blocks."""


_SURROGATE = re.compile("[\ud800-\udfff]")

Fields = TypeVar("Fields", bound=BaseModel)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = inline_references(model.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/layout-parsing", summary="Parse layout, as PaddleX does", openapi_extra=_body(LayoutParsingRequest))
async def layout_parsing(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Returns blocks, Markdown and pictures of each page, for clients of PaddleX's PaddleOCR-VL and PP-StructureV3."""
    timings = Timings()
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        body = await _json_body(request, context)
        fields = _validate(LayoutParsingRequest, body)
        requested = layout_request(context.settings, fields)
        run = resources.enter_context(await _open(request, context, body, requested, timings))
        fields = fields.model_copy(update={"file": ""})  # frees the memory while the document is read
        summary = await run.read_all()
        restructured, warnings = None, []
        if fields.restructure_pages:
            try:
                pages = await asyncio.to_thread(native_pages, run.spool, fields)
                restructured = await restructure_pages(
                    context.documents.pipeline, context.settings, pages, restructuring_of(fields)
                )
            except ServiceError as error:  # the pages are sent as they are
                log.warning("document %s: pages are not restructured: %s", run.id, error.message)
                warnings.append(NOT_RESTRUCTURED)
        picture = await _picture(context, request, run, summary)
        spool = run.spool
        exports = resources.enter_context(await export_spool(run.writers, spool, restructured, fields.output_formats))
        write = partial(
            write_pages,
            "layoutParsingResults",
            layout_parsing_results(fields, spool, restructured, picture, exports),
            spool,
            kind=run.kind,
            warnings=warnings,
            log_id=_log_id(request),
        )
        return file_response(await _write_file(write), "application/json", _headers(summary), resources)


@router.post(
    "/restructure-pages",
    summary="Restructure pages of /layout-parsing, as PaddleX does",
    openapi_extra=_body(RestructureRequest),
)
async def restructure(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Joins tables that continue across pages, sets heading levels, and can concatenate all pages."""
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        body = await _json_body(request, context, max_parts=MAX_RESTRUCTURED_PARTS)
        fields = await asyncio.to_thread(_validate, RestructureRequest, body)
        check_size([page.pruned_result for page in fields.pages])
        pages = [NativePage(page.pruned_result, "") for page in fields.pages]
        restructured = await restructure_pages(
            context.documents.pipeline,
            context.settings,
            pages,
            restructuring_of(fields, concatenate=fields.concatenate_pages),
        )
        images = response_images(fields)
        writers = context.documents.writers.of(request.state.key_name or "")
        exports = resources.enter_context(await export_uploaded(writers, restructured, images, fields.output_formats))
        write = partial(write_restructured, fields, restructured, images, exports, log_id=_log_id(request))
        response = file_response(await _write_file(write), "application/json", {}, resources)
        note(pages=len(pages))
        del body, fields, pages, restructured, images
        trim_heap()
        return response


def is_paddlex_ocr(body: Body) -> bool:
    """Whether a body of POST /ocr belongs to PaddleX's API."""
    return body.is_json and "file" in body.fields


async def ocr(request: Request, context: Context, body: Body, timings: Timings, resources: ExitStack) -> Response:
    """Respond to PaddleX's /ocr: lines of text with their boxes. `resources` are closed after the response."""
    if not body.fields.keys().isdisjoint(SOURCES[:2]):
        raise InvalidField(f"Send one document at a time: 'file', or {' or '.join(SOURCES[:2])}.")
    fields = _validate(LinesRequest, body)
    requested = lines_request(context.settings, fields)
    run = resources.enter_context(await _open(request, context, body, requested, timings))
    fields = fields.model_copy(update={"file": ""})
    summary = await run.read_all()
    picture = await _picture(context, request, run, summary)
    results = ocr_results(fields, run.spool, picture, preprocessed=is_preprocessed(requested.options))
    write = partial(write_pages, "ocrResults", results, run.spool, kind=run.kind, log_id=_log_id(request))
    return file_response(await _write_file(write), "application/json", _headers(summary), resources)


def _headers(summary: DocumentSummary) -> dict[str, str]:
    return {
        "X-Document-ID": summary.id,
        "X-Document-Status": summary.status,
        "X-Storage-Status": summary.storage.status,
        **warning_headers(summary),
    }


async def _json_body(request: Request, context: Context, *, max_parts: int | None = None) -> Body:
    limits = context.settings.limits
    parts = {} if max_parts is None else {"max_json_parts": max_parts}
    async with request_deadline(context):
        body = await read_body(request, max_bytes=int(limits.body_mb * 1e6), stall_s=limits.stall_s, **parts)
    if not body.is_json:
        raise UnsupportedMediaType("Send application/json.")
    use_dialect(request, body)
    return body


def use_dialect(request: Request, body: Body) -> None:
    """Write this request's errors in PaddleX's form from now on, with the client's `logId`."""
    log_id = body.fields.get("logId")
    usable = isinstance(log_id, str) and 0 < len(log_id) <= MAX_LOG_ID and not _SURROGATE.search(log_id)
    mark_paddlex(request.scope, cast(str, log_id) if usable else request_id_of(request.scope))


def _log_id(request: Request) -> str:
    log_id: str = request.scope["state"]["log_id"]
    return log_id


def _validate(model: type[Fields], body: Body) -> Fields:
    try:
        return model.model_validate(body.fields)
    except ValidationError as error:
        raise fields_error(error, model) from None


async def _open(
    request: Request, context: Context, body: Body, requested: DocumentRequest, timings: Timings
) -> DocumentRun:
    """Open the document of a checked body, and remove its `file` from there to free the memory."""
    timings.add_elapsed("receive")
    file = body.fields.pop("file")
    async with request_deadline(context):
        if "://" in file[:20]:
            with timings.measure("fetch"):
                source = await context.fetcher.fetch(file)
        else:
            source = await decode_off_loop(file)
        del file
        try:
            return await context.documents.open(source, requested, owner=request.state.key_name, timings=timings)
        except TooManyPages as error:
            raise TooManyPages(error.message.removesuffix(CHOOSE_PAGES)) from None  # this API cannot choose pages


async def _picture(context: Context, request: Request, run: DocumentRun, summary: DocumentSummary) -> Picture:
    """Return how pictures are represented: as URLs if so configured and the result is stored, otherwise inline."""
    folder, address = document_folder(run.id), context.links.base_url(str(request.base_url))

    def url(path: str) -> str:
        return context.links.url(f"{folder}/{path}", address)

    if context.settings.paddlex_images == "urls" and summary.storage.status == "stored" and run.spool.figure_paths:
        try:
            await asyncio.to_thread(url, run.spool.figure_paths[0])
        except StoreUnavailable as error:
            log.error("document %s: pictures are inline, because the store cannot create links: %s", run.id, error)
        else:
            return url
    return partial(inline_picture, run.spool)


async def _write_file(write: Callable[..., None]) -> BinaryIO:
    """Run `write` in a thread; returns its file, for the caller to close."""
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115 - the caller closes it
    try:
        await asyncio.to_thread(write, to=file)
    except BaseException:
        file.close()
        raise
    return file
