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

from serve_app.document import DocumentSummary, ErrorInfo, NativePage
from serve_app.document.ids import document_folder
from serve_app.errors import InvalidField, ServiceError, TooManyPages, UnsupportedMediaType
from serve_app.ingress.context import Context, context_of, in_time
from serve_app.ingress.middleware.request_scope import note_paddlex, request_id_of
from serve_app.ingress.requests.body import SOURCES, Body, decoded, read_body
from serve_app.ingress.requests.schema import inlined
from serve_app.ingress.requests.validation_errors import invalid_fields
from serve_app.ingress.responses.files import file_answer
from serve_app.outputs.rendering import BYTES_IN_MEMORY
from serve_app.paddlex.engine_options import is_preprocessed, layout_request, lines_request
from serve_app.paddlex.exports import exports_of_given, exports_of_spool
from serve_app.paddlex.requests import MAX_LOG_ID, LayoutParsingRequest, LinesRequest, RestructureRequest
from serve_app.paddlex.responses import (
    Picture,
    images_of,
    inline_picture,
    layout_parsing_results,
    ocr_results,
    pages_read,
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
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.ingress")
router = APIRouter(tags=["paddlex"])

MAX_RESTRUCTURED_PARTS = 3_000_000
"""Of the JSON of pages to restructure: six hundred pages of a hundred blocks."""

NOT_RESTRUCTURED = ErrorInfo(code="not_restructured", message="Tables and titles are as they are page by page.")

_SURROGATE = re.compile("[\ud800-\udfff]")

Asked = TypeVar("Asked", bound=BaseModel)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = inlined(model.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/layout-parsing", summary="Layout parsing, as PaddleX has it", openapi_extra=_body(LayoutParsingRequest))
async def layout_parsing(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Blocks, Markdown and pictures of each page, for clients of PaddleX's PaddleOCR-VL and PP-StructureV3 servers."""
    timings = Timings()
    with ExitStack() as held:
        held.enter_context(context.admission.slot())
        body = await _json_body(request, context)
        asked = _checked(LayoutParsingRequest, body)
        requested = layout_request(context.settings, asked)
        run = held.enter_context(await _open(request, context, body, requested, timings))
        asked = asked.model_copy(update={"file": ""})  # it may be large, and the document long
        summary = await run.read_all()
        restructured, warnings = None, []
        if asked.restructure_pages:
            try:
                pages = await asyncio.to_thread(pages_read, run.spool, asked)
                restructured = await restructure_pages(
                    context.documents.pipeline, context.settings, pages, restructuring_of(asked)
                )
            except ServiceError as error:  # the pages are worth sending as they are
                log.warning("document %s: pages are not restructured: %s", run.id, error.message)
                warnings.append(NOT_RESTRUCTURED)
        picture = await _picture(context, request, run, summary)
        writers, spool = context.documents.writers, run.spool
        exports = held.enter_context(await exports_of_spool(writers, spool, restructured, asked.output_formats))
        write = partial(
            write_pages,
            "layoutParsingResults",
            layout_parsing_results(asked, spool, restructured, picture, exports),
            spool,
            kind=run.kind,
            warnings=warnings,
            log_id=_log_id(request),
        )
        return file_answer(await _written(write), "application/json", _headers(summary), held)


@router.post(
    "/restructure-pages",
    summary="Make pages of /layout-parsing one piece, as PaddleX does",
    openapi_extra=_body(RestructureRequest),
)
async def restructure(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Tables that go on are joined, titles get their levels, pages may become one."""
    timings = Timings()
    with ExitStack() as held:
        held.enter_context(context.admission.slot())
        body = await _json_body(request, context, max_parts=MAX_RESTRUCTURED_PARTS)
        asked = await asyncio.to_thread(_checked, RestructureRequest, body)
        check_size([page.pruned_result for page in asked.pages])
        pages = [NativePage(page.pruned_result, "") for page in asked.pages]
        restructured = await restructure_pages(
            context.documents.pipeline,
            context.settings,
            pages,
            restructuring_of(asked, concatenate=asked.concatenate_pages),
        )
        images = images_of(asked)
        exports = held.enter_context(
            await exports_of_given(context.documents.writers, restructured, images, asked.output_formats)
        )
        write = partial(write_restructured, asked, restructured, images, exports, log_id=_log_id(request))
        answer = file_answer(await _written(write), "application/json", {}, held)
        key_name, took_ms = request.state.key_name, timings.elapsed_ms
        log.info("%d page(s) restructured: key %r, %.0f ms", len(pages), key_name, took_ms)
        del body, asked, pages, restructured, images
        trim_heap()
        return answer


def asks_for_ocr(body: Body) -> bool:
    """Whether a body of POST /ocr is of PaddleX's API."""
    return body.is_json and "file" in body.fields


async def ocr(request: Request, context: Context, body: Body, timings: Timings, held: ExitStack) -> Response:
    """The answer of PaddleX's /ocr: lines of text with their boxes. `held` is left when the work is done."""
    if not body.fields.keys().isdisjoint(SOURCES[:2]):
        raise InvalidField(f"Send one document at a time: 'file', or {' or '.join(SOURCES[:2])}.")
    asked = _checked(LinesRequest, body)
    requested = lines_request(context.settings, asked)
    run = held.enter_context(await _open(request, context, body, requested, timings))
    asked = asked.model_copy(update={"file": ""})
    summary = await run.read_all()
    picture = await _picture(context, request, run, summary)
    results = ocr_results(asked, run.spool, picture, preprocessed=is_preprocessed(requested.options))
    write = partial(write_pages, "ocrResults", results, run.spool, kind=run.kind, log_id=_log_id(request))
    return file_answer(await _written(write), "application/json", _headers(summary), held)


def _headers(summary: DocumentSummary) -> dict[str, str]:
    return {
        "X-Document-ID": summary.id,
        "X-Document-Status": summary.status,
        "X-Storage-Status": summary.storage.status,
    }


async def _json_body(request: Request, context: Context, *, max_parts: int | None = None) -> Body:
    limits = context.settings.limits
    parts = {} if max_parts is None else {"max_json_parts": max_parts}
    async with in_time(context):
        body = await read_body(request, max_bytes=int(limits.body_mb * 1e6), stall_s=limits.stall_s, **parts)
    if not body.is_json:
        raise UnsupportedMediaType("Send application/json.")
    note(request, body)
    return body


def note(request: Request, body: Body) -> None:
    """From here on answers, and errors, are PaddleX's, with the client's `logId`."""
    log_id = body.fields.get("logId")
    usable = isinstance(log_id, str) and 0 < len(log_id) <= MAX_LOG_ID and not _SURROGATE.search(log_id)
    note_paddlex(request.scope, cast(str, log_id) if usable else request_id_of(request.scope))


def _log_id(request: Request) -> str:
    log_id: str = request.scope["state"]["log_id"]
    return log_id


def _checked(model: type[Asked], body: Body) -> Asked:
    try:
        return model.model_validate(body.fields)
    except ValidationError as error:
        raise invalid_fields(error, model) from None


async def _open(
    request: Request, context: Context, body: Body, requested: DocumentRequest, timings: Timings
) -> DocumentRun:
    """Open the document of a checked body, and remove its `file` from there to free the memory."""
    timings.add_elapsed("receive")
    file = body.fields.pop("file")
    async with in_time(context):
        source = await (context.fetcher.fetch(file) if "://" in file[:20] else decoded(file))
        del file
        try:
            return await context.documents.open(source, requested, owner=request.state.key_name, timings=timings)
        except TooManyPages as error:
            raise TooManyPages(error.message.removesuffix(CHOOSE_PAGES)) from None  # here they cannot be chosen


async def _picture(context: Context, request: Request, run: DocumentRun, summary: DocumentSummary) -> Picture:
    """What stands for pictures: URLs where the settings say so and there is something behind them."""
    folder, address = document_folder(run.id), context.links.base_url(str(request.base_url))

    def url(path: str) -> str:
        return context.links.url(f"{folder}/{path}", address)

    if context.settings.paddlex_images == "urls" and summary.storage.status == "stored" and run.spool.figure_paths:
        try:
            await asyncio.to_thread(url, run.spool.figure_paths[0])
        except StoreUnavailable as error:
            log.error("document %s has its pictures inline, as the store makes no links: %s", run.id, error)
        else:
            return url
    return partial(inline_picture, run.spool)


async def _written(write: Callable[..., None]) -> BinaryIO:
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115 - for the answer
    try:
        await asyncio.to_thread(write, to=file)
    except BaseException:
        file.close()
        raise
    return file
