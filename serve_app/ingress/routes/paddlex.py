"""PaddleX's self-hosted API: POST /layout-parsing, POST /restructure-pages, and POST /ocr with a `file` in JSON."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, BinaryIO, TypeVar, cast

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ValidationError

from serve_app.document import DocumentSummary, ErrorInfo, NativePage
from serve_app.document.ids import document_folder
from serve_app.document.options import Restructuring
from serve_app.errors import InvalidField, ServiceError, TooManyPages, UnsupportedMediaType
from serve_app.ingress.context import Context, context_of, in_time
from serve_app.ingress.middleware.request_scope import note_paddlex, request_id_of
from serve_app.ingress.requests.body import SOURCES, Body, decoded, read_body
from serve_app.ingress.requests.schema import inlined
from serve_app.ingress.requests.validation_errors import invalid_fields
from serve_app.ingress.responses.files import file_answer
from serve_app.outputs.rendering import BYTES_IN_MEMORY
from serve_app.paddlex.engine_options import (
    how_of,
    is_preprocessed,
    layout_engine,
    layout_request,
    lines_request,
    one_piece,
)
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
from serve_app.paddlex.uploaded_pages import check_size
from serve_app.pipeline.documents import CHOOSE_PAGES, DocumentRun
from serve_app.pipeline.request import DocumentRequest
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
    started = time.perf_counter()
    with ExitStack() as held:
        held.enter_context(context.admission.slot())
        body = await _json_body(request, context)
        asked = _checked(LayoutParsingRequest, body)
        document = layout_request(context.settings, asked)
        reading = held.enter_context(await _opened(request, context, body, document, started))
        asked = asked.model_copy(update={"file": ""})  # it may be large, and the document long
        summary = await reading.read_all()
        restructured, warnings = None, []
        if asked.restructure_pages:
            try:
                pages = await asyncio.to_thread(pages_read, reading.spool, asked)
                restructured = await _one_piece(context, pages, how_of(asked))
            except ServiceError as error:  # what was read is worth more than that
                log.warning("document %s: pages are not made one piece: %s", reading.id, error.message)
                warnings.append(NOT_RESTRUCTURED)
        picture = await _picture(context, request, reading, summary)
        writers, spool = context.documents.writers, reading.spool
        exports = held.enter_context(await exports_of_spool(writers, spool, restructured, asked.output_formats))
        write = partial(
            write_pages,
            "layoutParsingResults",
            layout_parsing_results(asked, spool, restructured, picture, exports),
            spool,
            kind=reading.kind,
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
    started = time.perf_counter()
    with ExitStack() as held:
        held.enter_context(context.admission.slot())
        body = await _json_body(request, context, max_parts=MAX_RESTRUCTURED_PARTS)
        asked = await asyncio.to_thread(_checked, RestructureRequest, body)
        check_size([page.pruned_result for page in asked.pages])
        pages = [NativePage(page.pruned_result, "") for page in asked.pages]
        restructured = await _one_piece(context, pages, how_of(asked, concatenate=asked.concatenate_pages))
        images = images_of(asked)
        exports = held.enter_context(
            await exports_of_given(context.documents.writers, restructured, images, asked.output_formats)
        )
        write = partial(write_restructured, asked, restructured, images, exports, log_id=_log_id(request))
        answer = file_answer(await _written(write), "application/json", {}, held)
        took_ms = (time.perf_counter() - started) * 1000
        log.info("%d page(s) restructured: key %r, %.0f ms", len(pages), request.state.key_name, took_ms)
        del body, asked, pages, restructured, images
        trim_heap()
        return answer


def asks_for_ocr(body: Body) -> bool:
    """Whether a body of POST /ocr is of PaddleX's API."""
    return body.is_json and "file" in body.fields


async def ocr(request: Request, context: Context, body: Body, started: float, held: ExitStack) -> Response:
    """The answer of PaddleX's /ocr: lines of text with their boxes. `held` is left when the work is done."""
    if not body.fields.keys().isdisjoint(SOURCES[:2]):
        raise InvalidField(f"Send one document at a time: 'file', or {' or '.join(SOURCES[:2])}.")
    asked = _checked(LinesRequest, body)
    document = lines_request(context.settings, asked)
    reading = held.enter_context(await _opened(request, context, body, document, started))
    asked = asked.model_copy(update={"file": ""})
    summary = await reading.read_all()
    picture = await _picture(context, request, reading, summary)
    results = ocr_results(asked, reading.spool, picture, preprocessed=is_preprocessed(document.options))
    write = partial(write_pages, "ocrResults", results, reading.spool, kind=reading.kind, log_id=_log_id(request))
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


async def _opened(
    request: Request, context: Context, body: Body, document: DocumentRequest, started: float
) -> DocumentRun:
    """Of a body that is checked; its `file` is not there any more afterwards."""
    timings_ms = {"receive": (time.perf_counter() - started) * 1000}
    file = body.fields.pop("file")
    async with in_time(context):
        source = await (context.fetcher.fetch(file) if "://" in file[:20] else decoded(file))
        del file
        try:
            return await context.documents.open(
                source, document, owner=request.state.key_name, timings_ms=timings_ms, started=started
            )
        except TooManyPages as error:
            raise TooManyPages(error.message.removesuffix(CHOOSE_PAGES)) from None  # here they cannot be chosen


async def _one_piece(context: Context, pages: Sequence[NativePage], how: Restructuring) -> list[NativePage]:
    settings = context.settings
    return await one_piece(
        context.documents.pipeline, layout_engine(settings), pages, how, limit_s=settings.limits.page_s
    )


async def _picture(context: Context, request: Request, reading: DocumentRun, summary: DocumentSummary) -> Picture:
    """What stands for pictures: URLs where the settings say so and there is something behind them."""
    folder, address = document_folder(reading.id), context.links.address(str(request.base_url))

    def url(path: str) -> str:
        return context.links.of(f"{folder}/{path}", address)

    if context.settings.paddlex_images == "urls" and summary.storage.status == "stored" and reading.spool.figure_paths:
        try:
            await asyncio.to_thread(url, reading.spool.figure_paths[0])
        except StoreUnavailable as error:
            log.error("document %s has its pictures inline, as the store makes no links: %s", reading.id, error)
        else:
            return url
    return partial(inline_picture, reading.spool)


async def _written(write: Callable[..., None]) -> BinaryIO:
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115 - for the answer
    try:
        await asyncio.to_thread(write, to=file)
    except BaseException:
        file.close()
        raise
    return file
