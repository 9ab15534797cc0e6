"""Jobs: documents that outlive their request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from ray.exceptions import RayError

from serve_app.errors import (
    IdempotencyMismatch,
    InvalidField,
    JobGone,
    JobNotDone,
    NotFound,
    QueueFull,
    RequestTimeout,
    ServiceUnavailable,
)
from serve_app.file_content import FileContent
from serve_app.ingress.answers import document_answer
from serve_app.ingress.body import Body, OcrForm, OcrRequest, read_body, submission_of
from serve_app.ingress.choice import engine_of, options_of
from serve_app.ingress.context import Context, context_of
from serve_app.ingress.negotiation import accepted
from serve_app.ingress.schema import body_of
from serve_app.jobs.deployment import JobsReport, JobView
from serve_app.jobs.ledger import Claim
from serve_app.jobs.record import JobRecord, JobState, JobWish, Priority, Webhook, told
from serve_app.jobs.sources import check_source
from serve_app.outputs.kinds import STREAMED, OutputKind
from serve_app.outputs.rendering import Renderer
from serve_app.page_spool import PageSpool
from serve_app.storage import StoreUnavailable
from serve_app.storage.results import new_document_id

router = APIRouter(tags=["jobs"], prefix="/jobs")

ASK_S = 2.0
"""How long Jobs may take to answer; while it is being replaced, records are read from the store."""

EVENT_WAIT_S = 15.0
MOST_LISTED = 100
MAX_IDEMPOTENCY_KEY = 255


class JobFields(OcrRequest):
    priority: Priority = Field(Priority.INTERACTIVE, description="`bulk` jobs let others go first")
    webhook: str | None = Field(None, description="An http or https URL that is told of the job's end by a signed POST")


class JobForm(JobFields, OcrForm):
    """The same as a form."""


@router.post("", summary="Submit a document as a job", status_code=202, openapi_extra=body_of(JobFields, JobForm))
async def submit(request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    """The fields of POST /ocr but for `output` and `include_images`, which are asked for with the result."""
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
        )
        if asked.image_url is not None:
            check_source(asked.image_url, context.settings)
        record = JobRecord(
            id=new_document_id(),
            owner=request.state.key_name,
            priority=asked.priority,
            wish=wish,
            url=asked.image_url,
            webhook=await _webhook(asked.webhook, context),
            file_name=body.file_name,
        )
        record = await submitted(context, record, submission.source, _idempotency_key(request))
    return JSONResponse(told(record), 202, {"Location": str(request.url_for("status", job_id=record.id))})


@router.get("", summary="Your jobs, newest first")
async def listed(
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
    before: Annotated[str | None, Query(description="The id of the last one that you have")] = None,
) -> dict[str, Any]:
    ids = [each for each in await context.ledger.of(request.state.key_name) if before is None or each < before]
    views = await asyncio.gather(*(view_of(request, context, each) for each in ids[:limit]))
    return {"jobs": [_shown(view) for view in views], "more": len(ids) > limit}


@router.get("/{job_id}", summary="How far a job is", name="status")
async def status(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    return _shown(await view_of(request, context, job_id))


@router.get("/{job_id}/pages/{number}", summary="A page of a job, as soon as it is done")
async def page(
    job_id: str, number: int, request: Request, context: Annotated[Context, Depends(context_of)]
) -> dict[str, Any]:
    await view_of(request, context, job_id)
    try:
        reading, _ = await context.ledger.page(job_id, number)
    except KeyError:
        raise NotFound("This page is not done, or failed, or there is none.") from None
    return reading.page.model_dump(mode="json")


@router.get("/{job_id}/result", summary="The document, in any form")
async def result(
    job_id: str,
    request: Request,
    context: Annotated[Context, Depends(context_of)],
    output: OutputKind | None = None,
    include_images: bool = False,
) -> Response:
    record = (await view_of(request, context, job_id)).record
    output = output or accepted(request.headers.get("accept", ""))
    if output in STREAMED:
        raise InvalidField("output: a job's events are at /events.")
    if record.state not in (JobState.DONE, JobState.PARTIAL):
        reason = f": {record.error.message}" if record.error is not None else ""
        raise JobNotDone(f"This job is {record.state}; there is no result{reason or '.'}")
    spool = PageSpool()
    try:
        summary = await context.ledger.read_document(job_id, spool)

        async def source() -> bytes:
            with await context.ledger.source(job_id) as file:
                return await asyncio.to_thread(file.read)

        documents = context.documents
        renderer = Renderer(source, spool, password=record.wish.password, writers=documents.writers)
        file = await renderer.rendered(output, summary, include_images=include_images)
    finally:
        spool.close()
    return document_answer(file, output, summary, ExitStack(), failed=record.failed)


@router.get("/{job_id}/events", summary="Server-sent events: each change of a job until its end")
async def events(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    view = await view_of(request, context, job_id)
    return StreamingResponse(
        _events(view, request, context), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@router.post("/{job_id}/cancel", summary="Stop a job's work; what it has read so far stays")
async def cancel(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> dict[str, Any]:
    record = (await view_of(request, context, job_id)).record
    if record.state.is_active:
        record = record.ended_as(JobState.CANCELLED, keep_s=context.settings.jobs.keep_s)
        await context.ledger.save(record)  # first, so that nobody takes it up again
        latest: JobRecord | None = await _asked(context.jobs.end.remote(job_id))
        if latest is not None:
            record = record.model_copy(update={"done": latest.done, "failed": latest.failed})
        await context.ledger.close(record)
    return told(record)


@router.delete("/{job_id}", summary="Delete a job, and everything of it", status_code=204)
async def delete(job_id: str, request: Request, context: Annotated[Context, Depends(context_of)]) -> Response:
    record = (await view_of(request, context, job_id)).record
    await _delete(context, record)
    return Response(status_code=204)


async def uploaded(request: Request, context: Context) -> Body:
    """The body of a new job. A form's file goes to disk as it comes; JSON has to be held, and so be smaller."""
    limits = context.settings.limits
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    most_mb = context.settings.jobs.body_mb if is_form else limits.body_mb
    try:
        async with asyncio.timeout(limits.document_s):
            return await read_body(request, max_bytes=int(most_mb * 1e6), stall_s=limits.stall_s)
    except TimeoutError:
        raise RequestTimeout(f"The upload took longer than {limits.document_s:g} s.") from None


async def _webhook(url: str | None, context: Context) -> Webhook | None:
    if url is None:
        return None
    if not context.has_webhook_secret:
        raise InvalidField("webhook: this service has no secret to sign it with (OCR_WEBHOOK_SECRET).")
    await context.fetcher.check(url)
    return Webhook(url=url)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidField(f"Idempotency-Key: may have 1 to {MAX_IDEMPOTENCY_KEY} characters.")
    return key


async def submitted(
    context: Context, record: JobRecord, source: FileContent | None, idempotency_key: str | None = None
) -> JobRecord:
    """Keep a new job, and let it begin; of requests with the same key, the first one's is the job of all.

    Raises IdempotencyMismatch, QueueFull, JobGone, and ServiceUnavailable where it could not be kept.
    """
    if idempotency_key is None:
        return await _begun(context, record, source)
    claim = Claim(record.id, await asyncio.to_thread(_digest, record, source), time.time())
    try:
        before = await context.ledger.claimed(record.owner, idempotency_key)
        if before is None:
            # Kept first, and claimed then: who is killed in between has promised nothing.
            record = await _begun(context, record, source)
            before = await _asked(context.jobs.claim.remote(record.owner, idempotency_key, claim))
            if before.job_id != record.id:  # another one was quicker
                await _delete(context, record)
        if before.digest != claim.digest:
            raise IdempotencyMismatch
        first = await context.ledger.record(before.job_id)
    except StoreUnavailable as error:
        raise _store_away(context, error) from None
    if first.state.is_gone:
        raise JobGone
    return first


def _digest(record: JobRecord, source: FileContent | None) -> str:
    """Of what the client asks for."""
    digest = hashlib.sha256(
        record.model_dump_json(include={"wish": True, "priority": True, "url": True, "webhook": {"url"}}).encode()
    )
    digest.update(source or b"")
    return digest.hexdigest()


async def _begun(context: Context, record: JobRecord, source: FileContent | None) -> JobRecord:
    report: JobsReport = await _asked(context.jobs.report.remote())
    if report.running + report.waiting >= context.settings.jobs.waiting:
        raise QueueFull("The service has as many jobs as it takes.", retry_after_s=60)
    try:
        await context.ledger.add(record, source)
    except StoreUnavailable as error:
        raise _store_away(context, error) from None
    with suppress(ServiceUnavailable):  # it is kept, and found where it lies
        await _asked(context.jobs.wake.remote(record))
    return record


async def _delete(context: Context, record: JobRecord) -> None:
    record = record.ended_as(JobState.DELETED, keep_s=0)
    await context.ledger.save(record)  # first, so that nobody takes it up again
    await _asked(context.jobs.end.remote(record.id))
    await context.ledger.clear(record)


async def view_of(request: Request, context: Context, job_id: str) -> JobView:
    """Raises NotFound for a job of somebody else's as for none, and JobGone."""
    view: JobView | None = None
    with suppress(ServiceUnavailable):  # while Jobs is being replaced, the store knows
        view = await _asked(context.jobs.view.remote(job_id))
    if view is None:
        try:
            record = await context.ledger.record(job_id)
            if record.state.is_active and record.owner == request.state.key_name:
                record.done = len(await context.ledger.page_numbers(job_id))
            view = JobView(record, 0, None, None)
        except (KeyError, ValueError):
            raise NotFound("There is no such job.") from None
        except StoreUnavailable as error:
            raise _store_away(context, error) from None
    if view.record.owner != request.state.key_name:
        raise NotFound("There is no such job.")
    if view.record.state.is_gone:
        raise JobGone
    return view


def _shown(view: JobView) -> dict[str, Any]:
    return {**told(view.record), "position": view.position, "left_s": view.left_s}


async def _events(view: JobView | None, request: Request, context: Context) -> AsyncIterator[str]:
    while view is not None:
        yield f"event: job\ndata: {json.dumps(_shown(view), ensure_ascii=False)}\n\n"
        if not view.record.state.is_active:
            return
        try:
            latest: JobView | None = await context.jobs.view.remote(view.record.id, view.version, EVENT_WAIT_S)
        except RayError:  # it goes on in another replica, which begins to count anew
            await asyncio.sleep(1)
            latest = None
        view = latest or await view_of(request, context, view.record.id)


async def _asked(response: Any) -> Any:
    try:
        async with asyncio.timeout(ASK_S):
            return await response
    except (TimeoutError, RayError):
        raise ServiceUnavailable(retry_after_s=5) from None


def _store_away(context: Context, error: StoreUnavailable) -> ServiceUnavailable:
    context.backend.store_monitor.report(error)
    return ServiceUnavailable("The store is not available; try again shortly.", retry_after_s=10)
