"""The official job API of PaddleOCR, as its SDKs and command line speak it: POST and GET /api/v2/ocr/jobs."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import ExitStack, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from serve_app.document.ids import document_folder, new_document_id
from serve_app.document.page_ranges import parse_page_ranges
from serve_app.errors import InvalidField, QueueFull, ServiceUnavailable
from serve_app.ingress.context import ASK_S, Context, asked, context_of
from serve_app.ingress.jobs.client import read_submission, submit_job, view_of, views_of
from serve_app.ingress.middleware.request_scope import OFFICIAL_JOBS
from serve_app.ingress.requests.body import Body
from serve_app.ingress.requests.schema import body_of
from serve_app.ingress.requests.validation_errors import invalid, invalid_fields
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState
from serve_app.paddlex.engine_options import layout_request, lines_request
from serve_app.paddlex.job import LAYOUT_MODELS, LINES_MODELS, RESULT, PaddlexJob
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields

log = logging.getLogger("ray.serve.ingress")
router = APIRouter(tags=["official jobs"], prefix=OFFICIAL_JOBS)

MAX_PAYLOAD = 100_000
HOLD_S = 2.0
"""How long a status call is held for a job that is about to end: clients come back after three seconds or more."""

_STATES = {JobState.QUEUED: "pending", JobState.RUNNING: "running", JobState.DONE: "done", JobState.PARTIAL: "done"}


class OfficialJob(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

    model: str = Field(description=f"One of {', '.join((*LINES_MODELS, *LAYOUT_MODELS))}")
    optional_payload: dict[str, Any] = Field(
        default_factory=dict, description="The fields of /layout-parsing, or of /ocr; in a form, the text of the object"
    )
    file_url: str | None = Field(None, description="An http or https URL of the document, unless it is sent")
    page_ranges: str | None = Field(None, max_length=1000, description="Pages to read, such as `2,4-6`")
    batch_id: str | None = Field(None, max_length=256, description="A name that several jobs share")


@router.post("", summary="Submit a job, as PaddleOCR's clients do", openapi_extra=body_of(OfficialJob, OfficialJob))
async def submit(request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    with ExitStack() as held:
        held.enter_context(context.admission.slot())
        body = await read_submission(request, context)
        asked = _checked(body)
        paddlex = PaddlexJob(
            model=asked.model,
            payload=asked.optional_payload,
            batch_id=asked.batch_id,
            address=context.links.address(str(request.base_url)),
        )
        fields = _fields(paddlex)
        # Of what is not known nothing is kept: it would be in the job's record for as long as that lives.
        known = {name for each, field in type(fields).model_fields.items() for name in (each, field.alias)}
        payload = {name: value for name, value in paddlex.payload.items() if name in known}
        paddlex = paddlex.model_copy(update={"payload": payload})
        document = (
            lines_request(context.settings, fields, pages=asked.page_ranges)
            if isinstance(fields, LinesFields)
            else layout_request(context.settings, fields, pages=asked.page_ranges)
        )
        record = JobRecord(
            id=new_document_id(),
            owner=request.state.key_name,
            request=document,
            url=asked.file_url,
            paddlex=paddlex,
            file_name=body.file_name,
        )
        record = await submit_job(request, context, body, record, body.file)
    return _envelope({"jobId": record.id})


@router.get("/batch/{batch_id:path}", summary="The jobs of a batch")
async def batch(batch_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    ids = await context.job_store.ids_of_batch(request.state.key_name, batch_id)
    views = await views_of(request, context, ids)
    told = [await _told(view, request, context) for view in views]
    return _envelope({"batchId": batch_id, "extractResult": told})


@router.get("/{job_id}", summary="How far a job is, and where its result is")
async def status(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    view = await view_of(request, context, job_id)
    if view.record.state.is_active and _ends_soon(view):
        with suppress(QueueFull), context.watchers.slot(request.state.key_name):
            view = await _held(view, request, context)
    return _envelope(await _told(view, request, context))


async def _held(view: JobView, request: Request, context: Context) -> JobView:
    """The job when it is at its end, or after a while."""
    deadline = asyncio.get_running_loop().time() + HOLD_S
    while view.record.state.is_active and _ends_soon(view):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            break
        latest: JobView | None = None
        with suppress(ServiceUnavailable):  # it is being replaced
            latest = await asked(context.jobs.view.remote(view.record.id, view.version, left), limit_s=left + ASK_S)
        if latest is None:
            return await view_of(request, context, view.record.id)
        view = latest
    return view


def _ends_soon(view: JobView) -> bool:
    """New jobs may: nothing is known of them yet."""
    return view.left_s is None or view.left_s <= HOLD_S


def _checked(body: Body) -> OfficialJob:
    fields = dict(body.fields)
    payload = fields.get("optionalPayload")
    if isinstance(payload, str):
        if len(payload) > MAX_PAYLOAD:
            raise invalid("optionalPayload", f"may have at most {MAX_PAYLOAD} characters")
        try:
            fields["optionalPayload"] = json.loads(payload)
        except (ValueError, RecursionError):
            raise invalid("optionalPayload", "is not a JSON object") from None
    try:
        asked = OfficialJob.model_validate(fields)
    except ValidationError as error:
        raise invalid_fields(error, OfficialJob) from None
    if asked.model not in (*LINES_MODELS, *LAYOUT_MODELS):
        raise invalid("model", f"is none of {', '.join((*LINES_MODELS, *LAYOUT_MODELS))}")
    if (asked.file_url is None) == (body.file is None):
        raise InvalidField("Send the document as one of: file, fileUrl.")
    if asked.page_ranges is not None:
        try:
            parse_page_ranges(asked.page_ranges)
        except ValueError as error:
            raise invalid("pageRanges", str(error)) from None
    return asked


def _fields(paddlex: PaddlexJob) -> LayoutParsingFields | LinesFields:
    kind: type[LayoutParsingFields | LinesFields] = LinesFields if paddlex.of_lines else LayoutParsingFields
    try:
        return kind.model_validate(paddlex.payload)
    except ValidationError as error:
        raise invalid_fields(error, kind) from None


async def _told(view: JobView, request: Request, context: Context) -> dict[str, Any]:
    record = view.record
    told: dict[str, Any] = {"jobId": record.id, "state": _STATES.get(record.state, "failed")}
    if record.total is not None:
        progress: dict[str, Any] = {"totalPages": record.total, "extractedPages": record.done}
        for name, at in (("startTime", record.started), ("endTime", record.ended)):
            if at is not None:
                progress[name] = at.isoformat()
        told["extractProgress"] = progress
    if told["state"] == "done":
        address = context.links.address(str(request.base_url))
        key = f"{document_folder(record.id)}/{RESULT}"
        told["resultUrl"] = {"jsonUrl": await asyncio.to_thread(context.links.of, key, address)}
    if told["state"] == "failed":
        told["errorMsg"] = record.error.message if record.error is not None else f"The job was {record.state}."
    return told


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "msg": "Success", "data": data}
