"""Jobs: documents that outlive their request."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, field_validator

from serve_app.document import DocumentSummary
from serve_app.errors import InvalidField, JobNotDone, NotFound
from serve_app.file_content import mapped
from serve_app.ingress.answers import document_answer
from serve_app.ingress.body import DocumentFields, FileField, submission_of
from serve_app.ingress.choice import engine_of, options_of
from serve_app.ingress.context import Context, asked, context_of
from serve_app.ingress.job_access import delete_job, submitted, uploaded, view_of, views_of
from serve_app.ingress.job_events import JobEvents, shown
from serve_app.ingress.negotiation import accepted
from serve_app.ingress.schema import body_of
from serve_app.jobs.record import JobRecord, JobState, JobWish, Priority, Webhook, told
from serve_app.outputs.kinds import FILE_NAMES, STREAMED, OutputKind
from serve_app.outputs.rendering import Renderer
from serve_app.page_spool import PageSpool
from serve_app.storage.results import new_document_id

router = APIRouter(tags=["jobs"], prefix="/jobs")

MOST_LISTED = 100


class JobFields(DocumentFields):
    outputs: tuple[OutputKind, ...] = Field(
        (),
        max_length=len(FILE_NAMES),
        description="Forms of the result to keep beside it in the store: a list, in a form separated by commas (`pdf,docx`)",
    )
    priority: Priority = Field(Priority.INTERACTIVE, description="`bulk` jobs let others go first")
    webhook: str | None = Field(None, description="An http or https URL that is told of the job's end by a signed POST")

    @field_validator("outputs", mode="before")
    @classmethod
    def _listed(cls, outputs: Any) -> Any:
        return [each.strip() for each in outputs.split(",")] if isinstance(outputs, str) else outputs

    @field_validator("outputs")
    @classmethod
    def _kept(cls, outputs: tuple[OutputKind, ...]) -> tuple[OutputKind, ...]:
        if not STREAMED.isdisjoint(outputs):
            raise ValueError("streams are not kept; a job's events are at /jobs/{id}/events")
        return tuple(dict.fromkeys(outputs))


class JobForm(JobFields, FileField):
    """The same as a form."""


@router.post("", summary="Submit a document as a job", status_code=202, openapi_extra=body_of(JobFields, JobForm))
async def submit(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """The fields of POST /ocr, but for `output` and `include_images`, which are asked for with the result."""
    with ExitStack() as held:
        held.enter_context(context.admission.place())
        body = await uploaded(request, context)
        submission = await submission_of(body, JobFields, JobForm)
        asked = submission.request
        engine = engine_of(asked, context.settings.engines)
        wish = JobWish(
            engine=engine.name,
            options=options_of(asked, engine),
            dpi=asked.dpi,
            password=asked.password,
            pages=asked.pages,
            max_pages=asked.max_pages,
            text_layer=asked.text_layer == "auto",
            restructure=asked.restructure,
            outputs=asked.outputs,
        )
        record = JobRecord(
            id=new_document_id(),
            owner=request.state.key_name,
            priority=asked.priority,
            wish=wish,
            url=asked.image_url,
            webhook=await _webhook(asked.webhook, context),
            file_name=body.file_name,
        )
        record = await submitted(request, context, body, record, submission.source)
    address = context.links.address(str(request.base_url)).rstrip("/")
    return JSONResponse(told(record), 202, {"Location": f"{address}{router.prefix}/{record.id}"})


@router.get("", summary="Your jobs, newest first")
async def listed(
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
    before: Annotated[str | None, Query(description="The id of the last one that you have")] = None,
) -> dict[str, Any]:
    ids = [each for each in await context.ledger.of(request.state.key_name) if before is None or each < before]
    views = await views_of(request, context, ids[:limit])
    return {"jobs": [shown(view) for view in views], "more": len(ids) > limit}


@router.get("/{job_id}", summary="How far a job is")
async def status(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    return shown(await view_of(request, context, job_id))


@router.get("/{job_id}/pages/{number}", summary="A page of a job, as soon as it is done")
async def page(
    job_id: str, number: int, request: Request, context: Annotated[Context, Depends(context_of)]
) -> dict[str, Any]:
    record = (await view_of(request, context, job_id)).record
    try:
        reading, _ = await context.ledger.page(job_id, number)
    except KeyError:
        if record.page_count is not None and not 1 <= number <= record.page_count:
            raise NotFound(f"There is no such page: the document has {record.page_count}.") from None
        if record.state.is_active:
            raise JobNotDone("This page is not done yet, or none of those that are read.") from None
        raise NotFound("This page could not be read, or is none of those that were asked for.") from None
    return reading.page.model_dump(mode="json")


@router.get("/{job_id}/result", summary="The document, in any form")
async def result(
    job_id: str,
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    output: OutputKind | None = None,
    include_images: bool = False,
) -> Response:
    with ExitStack() as held:
        held.enter_context(context.admission.place())
        record = (await view_of(request, context, job_id)).record
        output = output or accepted(request.headers.get("accept", ""))
        if output in STREAMED:
            raise InvalidField("output: a job's events are at /events.")
        if record.state not in (JobState.DONE, JobState.PARTIAL):
            reason = f": {record.error.message}" if record.error is not None else ""
            raise JobNotDone(f"This job is {record.state}; there is no result{reason or '.'}")
        kept = record.outputs.get(output)
        if kept is not None and kept.key is not None and not include_images:
            with suppress(KeyError):  # it can be made again
                file = await context.ledger.result(job_id, FILE_NAMES[output])
                held.callback(file.close)
                summary = await context.ledger.summary(job_id)
                return document_answer(file, output, summary, held, failed=record.failed)
        try:
            summary, file = await _rendered(context, record, output, include_images=include_images)
        except KeyError:
            await view_of(request, context, job_id)  # is it deleted meanwhile?
            raise
        return document_answer(file, output, summary, held, failed=record.failed)


async def _rendered(
    context: Context, record: JobRecord, output: OutputKind, *, include_images: bool
) -> tuple[DocumentSummary, BinaryIO]:
    async def source() -> memoryview:
        with await context.ledger.source(record.id) as file:
            return memoryview(mapped(file))

    with closing(PageSpool()) as spool:
        summary = await context.ledger.read_document(record.id, spool)
        renderer = Renderer(source, spool, password=record.wish.password, writers=context.documents.writers)
        return summary, await renderer.rendered(output, summary, include_images=include_images)


@router.get("/{job_id}/events", summary="Server-sent events: a job page by page until its end")
async def events(
    job_id: str, request: Request, context: Annotated[Context, Depends(context_of)], pages: bool = True
) -> Response:
    """`page` (`page`), each once, and `job` (as of GET /jobs/{id}) whenever that has changed, the last one at its end.

    Who comes late, or comes again, is told of all pages; with `pages=false`, of none. `error` (`code`, `message`) ends
    a stream that cannot go on.
    """
    with ExitStack() as held:
        held.enter_context(context.watchers.place())
        view = await view_of(request, context, job_id)
        return JobEvents(view, request, context, held.pop_all(), pages=pages)


@router.post("/{job_id}/cancel", summary="Stop a job's work; what it has read so far stays")
async def cancel(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    record = (await view_of(request, context, job_id)).record
    if record.state.is_active:
        record = record.ended_as(JobState.CANCELLED, keep_s=context.settings.jobs.keep_s)
        await context.ledger.save(record)  # first, so that nobody takes it up again
        latest: JobRecord | None = await asked(context.jobs.end.remote(job_id))
        if latest is not None:
            record = record.model_copy(update={"done": latest.done, "failed": latest.failed})
        await context.ledger.close(record)
    return told(record)


@router.delete("/{job_id}", summary="Delete a job, and everything of it", status_code=204)
async def delete(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    record = (await view_of(request, context, job_id)).record
    await delete_job(context, record)
    return Response(status_code=204)


async def _webhook(url: str | None, context: Context) -> Webhook | None:
    if url is None:
        return None
    if not context.has_webhook_secret:
        raise InvalidField("webhook: this service has no secret to sign it with (OCR_WEBHOOK_SECRET).")
    await context.fetcher.check(url)
    return Webhook(url=url)
