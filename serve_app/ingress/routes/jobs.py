"""/jobs: documents that are read in the background."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, field_validator

from serve_app.document import DocumentSummary, Page
from serve_app.document.ids import new_document_id
from serve_app.document.spool import PageSpool
from serve_app.errors import (
    FieldError,
    InvalidField,
    JobHasNoResult,
    JobNotDone,
    NotFound,
    ServiceError,
    UrlFetchFailed,
    UrlForbidden,
)
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.jobs.client import end_job, read_submission, submit_job, view_job, view_jobs
from serve_app.ingress.jobs.events import job_events
from serve_app.ingress.requests.document_fields import FileField, OcrRequest, OutputFields
from serve_app.ingress.requests.document_request import document_request
from serve_app.ingress.requests.negotiation import negotiate_format
from serve_app.ingress.requests.schema import body_of
from serve_app.ingress.requests.submission import submission_of
from serve_app.ingress.requests.unknown_parameters import known_query_only
from serve_app.ingress.requests.validation_errors import field_error
from serve_app.ingress.responses.files import document_response
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState, Priority, Webhook
from serve_app.jobs.response import JobListResponse, JobResponse, job_response
from serve_app.outputs.formats import FILE_NAMES, MEDIA_TYPES, STREAMED, OutputFormat, file_type
from serve_app.outputs.options import OutputOptions
from serve_app.outputs.rendering import Renderer
from serve_app.outputs.writer_client import WrittenFile
from serve_app.runtime.mapped_file import map_file

router = APIRouter(tags=["jobs"], prefix="/jobs", dependencies=[Depends(known_query_only)])

MAX_LISTED = 100
RETRY_AFTER_S = 5
ID_PATTERN = "^[0-9]{8}-[0-9a-f]{24}$"
_ENDED = {JobState.CANCELLED: "was cancelled", JobState.FAILED: "has failed"}


class JobFields(OutputFields):
    outputs: tuple[
        Literal["json", "markdown", "text", "html", "docx", "pdf", "zip", "hocr", "alto", "page_xml"], ...
    ] = Field(
        (),
        max_length=len(FILE_NAMES),
        description="Further output formats to store with the result: a list; in a form, separated by commas (`pdf,docx`)",
    )
    priority: Priority = Field(Priority.INTERACTIVE, description="`bulk` jobs give way to interactive ones")
    webhook: str | None = Field(
        None, description="An http or https URL to call when the job has ended, with a signed POST (Standard Webhooks)"
    )

    @field_validator("outputs", mode="before")
    @classmethod
    def _split_names(cls, outputs: Any) -> Any:
        return [each.strip() for each in outputs.split(",")] if isinstance(outputs, str) else outputs


class JobForm(JobFields, FileField):
    """The fields of POST /jobs in a form."""


_AS_SUBMITTED = "; default: as the job was submitted"


def _field(name: str) -> str:
    return OcrRequest.model_fields[name].description or ""


@router.post(
    "",
    summary="Submit a document as a job",
    status_code=202,
    responses={202: {"model": JobResponse}},
    openapi_extra=body_of(JobFields, JobForm),
)
async def submit(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """Takes the fields of POST /ocr, except `output` and `include_images`: choose these when you fetch the result."""
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        body = await read_submission(request, context)
        submission = await submission_of(body, JobFields, JobForm)
        fields = submission.request
        record = JobRecord(
            id=new_document_id(),
            owner=request.state.key_name,
            priority=fields.priority,
            request=document_request(
                fields,
                context.settings.engines,
                outputs=list(map(OutputFormat, fields.outputs)),
                output_options=fields.output_options(),
            ),
            url=fields.image_url,
            webhook=await _webhook(fields.webhook, context),
            file_name=body.file_name,
        )
        stored = await submit_job(request, context, body, record, submission.source)
    address = context.links.base_url(str(request.base_url)).rstrip("/")
    headers = {"Location": f"{address}{router.prefix}/{stored.id}"}
    if stored.id != record.id:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(job_response(JobView(stored)), 202, headers)


@router.get("", summary="List your jobs, newest first", responses={200: {"model": JobListResponse}})
async def list_jobs(
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
    before: Annotated[str | None, Query(description="Return jobs older than this id", pattern=ID_PATTERN)] = None,
) -> dict[str, Any]:
    all_ids = await context.job_store.ids_of_owner(request.state.key_name)
    ids = [each for each in all_ids if before is None or each < before]
    views = await view_jobs(request, context, ids[:limit])
    return {"jobs": [job_response(view) for view in views], "more": len(ids) > limit}


@router.get("/{job_id}", summary="Get a job's status", responses={200: {"model": JobResponse}})
async def status(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    return job_response(await view_job(request, context, job_id))


@router.get(
    "/{job_id}/pages/{number}", summary="Get one page of a job as soon as it is done", responses={200: {"model": Page}}
)
async def page(
    job_id: str,
    number: Annotated[int, Path(ge=1, le=1_000_000)],
    request: Request,
    context: Annotated[Context, Depends(context_of)],
) -> dict[str, Any]:
    record = (await view_job(request, context, job_id)).record
    try:
        content, _ = await context.job_store.page(job_id, number)
    except KeyError:
        if record.page_count is not None and not 1 <= number <= record.page_count:
            raise NotFound(f"There is no such page: the document has {record.page_count} page(s).") from None
        if record.state.is_active:
            raise JobNotDone("This page is not done yet, or was not requested.") from None
        if record.state in (JobState.CANCELLED, JobState.FAILED):
            raise NotFound(f"This page was not read: the job {_ENDED[record.state]}.") from None
        raise NotFound("This page could not be read, or was not requested.") from None
    return content.page.model_dump(mode="json")


@router.get(
    "/{job_id}/result",
    summary="Get a job's result in any output format",
    responses={200: {"content": {MEDIA_TYPES[kind]: {} for kind in FILE_NAMES}, "description": "The document"}},
)
async def result(
    job_id: str,
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    output: Annotated[
        OutputFormat | None, Query(description="Format; default: the one that `Accept` selects, or JSON")
    ] = None,
    include_images: Annotated[bool, Query(description=_field("include_images"))] = False,
    page_marks: Annotated[bool | None, Query(description=_field("page_marks") + _AS_SUBMITTED)] = None,
    straighten: Annotated[bool | None, Query(description=_field("straighten") + _AS_SUBMITTED)] = None,
    pdf_a: Annotated[bool | None, Query(description=_field("pdf_a") + _AS_SUBMITTED)] = None,
) -> Response:
    with ExitStack() as resources:
        resources.enter_context(context.admission.slot())
        record = (await view_job(request, context, job_id)).record
        as_submitted = record.request.output_options
        given = {"page_marks": page_marks, "straighten": straighten, "pdf_a": pdf_a}
        changes = {name: value for name, value in given.items() if value is not None}
        options = replace(as_submitted, include_images=include_images, **changes)
        output = output or negotiate_format(request.headers.get("accept", ""))
        if output in STREAMED:
            raise InvalidField(f"output: get a job's events from /jobs/{job_id}/events.")
        if record.state.is_active:
            raise JobNotDone(f"This job is {record.state}; it has no result yet.", retry_after_s=RETRY_AFTER_S)
        if record.state in (JobState.CANCELLED, JobState.FAILED):
            reason = f": {record.error.message}" if record.error is not None else "."
            raise JobHasNoResult(f"This job {_ENDED[record.state]}{reason}")
        pages = record.done + record.failed
        respond = partial(
            document_response, resources=resources, pages=pages, failed=record.failed, file_name=record.file_name
        )
        stored = record.outputs.get(output)
        if stored is not None and stored.key is not None and options == as_submitted:
            with suppress(KeyError):  # if it is lost, render it again
                file = await context.job_store.open_output(job_id, file_type(output, pages)[0])
                resources.callback(file.close)
                written = WrittenFile(file, stored.warnings, stored.pages_drawn)
                return respond(written, output, await context.job_store.summary(job_id))
        try:
            summary, written = await _render(context, record, output, options)
        except KeyError:
            await view_job(request, context, job_id)  # raises JobGone if the job has been deleted meanwhile
            raise
        return respond(written, output, summary)


async def _render(
    context: Context, record: JobRecord, output: OutputFormat, options: OutputOptions
) -> tuple[DocumentSummary, WrittenFile]:
    async def source() -> memoryview:
        with await context.job_store.open_source(record.id) as file:
            return memoryview(map_file(file))

    with closing(PageSpool()) as spool:
        summary = await context.job_store.load_document(record.id, spool)
        writers = context.documents.writers.of(record.owner)
        renderer = Renderer(source, spool, password=record.request.password, writers=writers)
        return summary, await renderer.render(output, summary, options)


@router.get(
    "/{job_id}/events",
    summary="Follow a job page by page (server-sent events)",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events until the job's end"}},
)
async def events(
    job_id: str, request: Request, context: Annotated[Context, Depends(context_of)], pages: bool = True
) -> Response:
    """Sends `page` (`page`) once for each finished page, and `job` (as GET /jobs/{id}) at each change until the job's end.

    Each connection gets all pages from the first one, or none with `pages=false`. `error` (`code`, `message`) ends a
    stream that cannot continue.
    """
    view = await view_job(request, context, job_id)
    with ExitStack() as resources:
        resources.enter_context(context.watchers.slot(request.state.key_name))
        return job_events(view, request, context, resources.pop_all(), pages=pages)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job; pages that are done remain available",
    responses={200: {"model": JobResponse}},
)
async def cancel(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    record = (await view_job(request, context, job_id)).record
    if record.state.is_active:
        record = await end_job(context, job_id, JobState.CANCELLED)
    return job_response(JobView(record))


@router.delete("/{job_id}", summary="Delete a job and its results", status_code=204)
async def delete(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    await view_job(request, context, job_id)
    await end_job(context, job_id, JobState.DELETED)
    return Response(status_code=204)


async def _webhook(url: str | None, context: Context) -> Webhook | None:
    if url is None:
        return None
    if not context.has_webhook_secret:
        raise field_error("webhook", "this service has no secret to sign webhooks with (OCR_WEBHOOK_SECRET).")
    try:
        await context.fetcher.check(url)
    except UrlFetchFailed:
        pass  # the name may resolve later: deliveries are retried for a day
    except UrlForbidden:
        message = "The URL leads to an address that this service may not connect to (allowed_private_networks)."
        raise UrlForbidden(f"webhook: {message}", fields=(FieldError("webhook", message),)) from None
    except ServiceError as error:
        fields = (FieldError("webhook", error.message),)
        raise type(error)(f"webhook: {error.message}", fields=fields) from None
    return Webhook(url=url)
