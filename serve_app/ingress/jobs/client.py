"""What routes do with jobs: submit, look up, delete. Jobs may be being replaced, and the store away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from fastapi import Request

from serve_app.errors import (
    EmptyDocument,
    InvalidField,
    JobGone,
    NotFound,
    QueueFull,
    RequestRunning,
    RequestTimeout,
    ServiceUnavailable,
)
from serve_app.fetching.sources import S3, check_source
from serve_app.ingress.context import Context, asked, store_away
from serve_app.ingress.idempotency import RETRY_AFTER_S, Turn, idempotency_key, request_digest
from serve_app.ingress.requests.body import Body, read_body
from serve_app.jobs.deployment import JobsReport
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState, as_stored, record_of
from serve_app.raster.images import HEADER_WITHIN, sniff
from serve_app.runtime.mapped_file import FileContent
from serve_app.storage import StoreUnavailable

SUBMIT_S = 20.0
"""How long to wait for the first request with an Idempotency-Key to have its job kept."""

SUBMIT_POLL_S = 0.2

END_S = 60.0
"""How long to wait for all of a job to be deleted; it goes on if that takes longer."""


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


async def submitted(
    request: Request, context: Context, body: Body, record: JobRecord, source: FileContent | None
) -> JobRecord:
    """Keep a new job, and let it begin; of requests with the same Idempotency-Key, the first one's is the job of all.

    Raises what a document is refused with, IdempotencyMismatch, RequestRunning where the first one takes
    long to be kept, QueueFull, JobGone, and ServiceUnavailable where it could not be kept.
    """
    name = idempotency_key(request)
    if name is None:
        return await _begun(context, record, source)
    turn = Turn(context, record.owner, name, await request_digest(request, body), request_id=record.id)
    deadline = asyncio.get_running_loop().time() + SUBMIT_S
    async with turn:
        while not await turn.is_first():
            if turn.first.until is None:
                return await _made_before(context, turn.first.id)
            if asyncio.get_running_loop().time() > deadline:
                raise RequestRunning(retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(SUBMIT_POLL_S)  # the first one is just being kept
        record = await _begun(context, record, source)
        await turn.settle()
    return record


async def _made_before(context: Context, job_id: str) -> JobRecord:
    try:
        record = await context.job_store.record(job_id)
    except KeyError:
        raise JobGone from None
    except StoreUnavailable as error:
        raise store_away(context, error) from None
    if record.state.is_gone:
        raise JobGone("The job of this Idempotency-Key is deleted; send another key for a new one.")
    return record


async def _begun(context: Context, record: JobRecord, source: FileContent | None) -> JobRecord:
    try:
        record_of(as_stored(record))
    except ValueError:
        raise InvalidField("The request holds text or values that cannot be kept.") from None
    await _check_source(context, record.url, source)
    report: JobsReport = await asked(context.jobs.report.remote())
    if report.running + report.waiting >= context.settings.jobs.waiting:
        raise QueueFull("The service has as many jobs as it takes.", retry_after_s=60)
    try:
        await context.job_store.add(record, source)
    except StoreUnavailable as error:
        raise store_away(context, error) from None
    with suppress(ServiceUnavailable):  # it is kept, and found where it lies
        await asked(context.jobs.wake.remote(record))
    return record


async def _check_source(context: Context, url: str | None, source: FileContent | None) -> None:
    """Refuse at once what could not be read: a kind of file, or where it lies."""
    if url is not None:
        check_source(url, context.settings)
        if not url.startswith(S3):
            await context.fetcher.check(url)
    if source is not None and not source:
        raise EmptyDocument
    if source is not None:
        sniff(source[:HEADER_WITHIN])


async def end_job(context: Context, job_id: str, state: JobState) -> JobRecord:
    """Cancel or delete a job; returns its record as it is then. Raises JobGone and ServiceUnavailable."""
    try:
        record: JobRecord | None = await asked(context.jobs.end.remote(job_id, state), limit_s=END_S)
    except StoreUnavailable as error:
        raise store_away(context, error) from None
    if record is None:
        raise JobGone
    return record


async def view_of(request: Request, context: Context, job_id: str) -> JobView:
    """Raises NotFound for a job of somebody else's as for none, and JobGone."""
    view: JobView | None = None
    with suppress(ServiceUnavailable):  # while Jobs is being replaced, the store knows
        view = await asked(context.jobs.view.remote(job_id))
    if view is None:
        try:
            record = await context.job_store.record(job_id)
            if record.state.is_active and record.owner == request.state.key_name:
                record.done = len(await context.job_store.page_numbers(job_id))
            view = JobView(record, 0, None, None)
        except (KeyError, ValueError):
            raise NotFound("There is no such job.") from None
        except StoreUnavailable as error:
            raise store_away(context, error) from None
    if view.record.owner != request.state.key_name:
        raise NotFound("There is no such job.")
    if view.record.state.is_gone:
        raise JobGone
    return view


async def views_of(request: Request, context: Context, job_ids: Sequence[str]) -> list[JobView]:
    """Of several jobs, without those that are deleted meanwhile."""
    views = await asyncio.gather(*(view_of(request, context, job_id) for job_id in job_ids), return_exceptions=True)
    for view in views:
        if isinstance(view, BaseException) and not isinstance(view, JobGone | NotFound):
            raise view
    return [view for view in views if isinstance(view, JobView)]
