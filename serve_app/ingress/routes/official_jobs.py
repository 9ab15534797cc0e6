"""PaddleOCR's official job API (/api/v2/ocr/jobs), for its SDKs and command line."""

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
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.jobs.client import read_submission, submit_job, view_job, view_jobs
from serve_app.ingress.middleware.request_scope import OFFICIAL_JOBS
from serve_app.ingress.requests.body import Body
from serve_app.ingress.requests.schema import body_of
from serve_app.ingress.requests.validation_errors import field_error, fields_error
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import Dialect, JobRecord, JobState
from serve_app.paddlex import DIALECT
from serve_app.paddlex.engine_options import layout_request, lines_request
from serve_app.paddlex.job import LAYOUT_MODELS, LINES_MODELS, RESULT, PaddlexJob
from serve_app.paddlex.requests import LayoutParsingFields, LinesFields

log = logging.getLogger("ray.serve.ingress")
router = APIRouter(tags=["official jobs"], prefix=OFFICIAL_JOBS)

MAX_PAYLOAD = 100_000
END_WAIT_S = 2.0
"""How long a status request waits for a job that is about to end. Clients poll only every three seconds or more."""

_STATES = {JobState.QUEUED: "pending", JobState.RUNNING: "running", JobState.DONE: "done", JobState.PARTIAL: "done"}


class OfficialJob(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)

    model: str = Field(description=f"One of {', '.join((*LINES_MODELS, *LAYOUT_MODELS))}")
    optional_payload: dict[str, Any] = Field(
        default_factory=dict, description="Fields of /layout-parsing, or of /ocr; in a form, a JSON object as text"
    )
    file_url: str | None = Field(None, description="An http or https URL of the document, if no file is uploaded")
    page_ranges: str | None = Field(None, max_length=1000, description="Pages to read, such as `2,4-6`")
    batch_id: str | None = Field(None, max_length=256, description="A name shared by several jobs")


@router.post("", summary="Submit a job (PaddleOCR's official API)", openapi_extra=body_of(OfficialJob, OfficialJob))
async def submit(request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        body = await read_submission(request, context)
        job = _validate(body)
        fields = _fields(job)
        paddlex = PaddlexJob(
            model=job.model,
            # What was validated, without unknown fields: the record would keep them for as long as it lives.
            payload=fields.model_dump(mode="json", by_alias=True, exclude_unset=True),
            address=context.links.base_url(str(request.base_url)),
        )
        document = (
            lines_request(context.settings, fields, pages=job.page_ranges)
            if isinstance(fields, LinesFields)
            else layout_request(context.settings, fields, pages=job.page_ranges)
        )
        record = JobRecord(
            id=new_document_id(),
            owner=request.state.key_name,
            request=document,
            url=job.file_url,
            batch_id=job.batch_id,
            dialect=Dialect(name=DIALECT, payload=paddlex.model_dump(mode="json")),
            file_name=body.file_name,
        )
        record = await submit_job(request, context, body, record, body.file)
    return _envelope({"jobId": record.id})


@router.get("/batch/{batch_id:path}", summary="List the jobs of a batch")
async def batch(batch_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    ids = await context.job_store.ids_of_batch(request.state.key_name, batch_id)
    views = await view_jobs(request, context, ids)
    return _envelope({"batchId": batch_id, "extractResult": [await _status(view, request, context) for view in views]})


@router.get("/{job_id}", summary="Get a job's status and the URL of its result")
async def status(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    view = await view_job(request, context, job_id)
    if view.record.state.is_active and _ends_soon(view):
        with suppress(QueueFull), context.watchers.slot(request.state.key_name):
            view = await _wait_for_end(view, request, context)
    return _envelope(await _status(view, request, context))


async def _wait_for_end(view: JobView, request: Request, context: Context) -> JobView:
    """Wait until the job has ended, or will not end soon, for END_WAIT_S at most; return its latest view."""
    deadline = asyncio.get_running_loop().time() + END_WAIT_S
    while view.record.state.is_active and _ends_soon(view):
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            break
        latest: JobView | None = None
        with suppress(ServiceUnavailable):  # Jobs is being replaced
            latest = await context.jobs.view(view.record.id, view.version, left_s)
        if latest is None:
            return await view_job(request, context, view.record.id)
        view = latest
    return view


def _ends_soon(view: JobView) -> bool:
    """Whether the job may end within END_WAIT_S. A new job may, since nothing is known of its pace."""
    return view.left_s is None or view.left_s <= END_WAIT_S


def _validate(body: Body) -> OfficialJob:
    fields = dict(body.fields)
    payload = fields.get("optionalPayload")
    if isinstance(payload, str):
        if len(payload) > MAX_PAYLOAD:
            raise field_error("optionalPayload", f"may have at most {MAX_PAYLOAD} characters")
        try:
            fields["optionalPayload"] = json.loads(payload)
        except (ValueError, RecursionError):
            raise field_error("optionalPayload", "is not a JSON object") from None
    try:
        job = OfficialJob.model_validate(fields)
    except ValidationError as error:
        raise fields_error(error, OfficialJob) from None
    if job.model not in (*LINES_MODELS, *LAYOUT_MODELS):
        raise field_error("model", f"is none of {', '.join((*LINES_MODELS, *LAYOUT_MODELS))}")
    if (job.file_url is None) == (body.file is None):
        raise InvalidField("Send the document as one of: file, fileUrl.")
    if job.page_ranges is not None:
        try:
            parse_page_ranges(job.page_ranges)
        except ValueError as error:
            raise field_error("pageRanges", str(error)) from None
    return job


def _fields(job: OfficialJob) -> LayoutParsingFields | LinesFields:
    kind: type[LayoutParsingFields | LinesFields] = LinesFields if job.model in LINES_MODELS else LayoutParsingFields
    try:
        return kind.model_validate(job.optional_payload)
    except ValidationError as error:
        raise fields_error(error, kind) from None


async def _status(view: JobView, request: Request, context: Context) -> dict[str, Any]:
    record = view.record
    status: dict[str, Any] = {"jobId": record.id, "state": _STATES.get(record.state, "failed")}
    if record.total is not None:
        progress: dict[str, Any] = {"totalPages": record.total, "extractedPages": record.done}
        for name, at in (("startTime", record.started), ("endTime", record.ended)):
            if at is not None:
                progress[name] = at.isoformat()
        status["extractProgress"] = progress
    if status["state"] == "done":
        address = context.links.base_url(str(request.base_url))
        key = f"{document_folder(record.id)}/{RESULT}"
        status["resultUrl"] = {"jsonUrl": await asyncio.to_thread(context.links.url, key, address)}
    if status["state"] == "failed":
        status["errorMsg"] = record.error.message if record.error is not None else f"The job was {record.state}."
    return status


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "msg": "Success", "data": data}
