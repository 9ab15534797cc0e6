"""Submits, looks up, cancels and deletes jobs, also while a Jobs replica is being replaced."""

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
from serve_app.ingress.context import Context, store_unavailable
from serve_app.ingress.idempotency.lease import RETRY_AFTER_S, IdempotencyLease, idempotency_key, request_digest
from serve_app.ingress.requests.body import Body, read_body
from serve_app.jobs.idempotency_store import ClaimState
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState, decode_record, encode_record
from serve_app.raster.images import HEADER_SEARCH_BYTES, sniff
from serve_app.runtime.end_line import note
from serve_app.runtime.mapped_file import FileContent
from serve_app.storage import StoreUnavailable

SUBMIT_S = 20.0
"""How long to wait until the first request with an Idempotency-Key has stored its job."""

SUBMIT_POLL_S = 0.2

VIEWS_AT_ONCE = 32
"""Jobs of a list that are looked up at once: each is a call of every Jobs replica."""


async def read_submission(request: Request, context: Context) -> Body:
    """Read the body of a submission. A form may be larger than JSON, since its file goes straight to disk."""
    limits = context.settings.limits
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    most_mb = context.settings.jobs.body_mb if is_form else limits.body_mb
    try:
        async with asyncio.timeout(limits.document_s):
            return await read_body(request, max_bytes=int(most_mb * 1e6), stall_s=limits.stall_s)
    except TimeoutError:
        raise RequestTimeout(f"The upload took longer than {limits.document_s:g} s.") from None


async def submit_job(
    request: Request, context: Context, body: Body, record: JobRecord, source: FileContent | None
) -> JobRecord:
    """Store a new job and start it. With an Idempotency-Key, return the job of the first request with that key.

    Raises the error of a document that cannot be read, QueueFull, and ServiceUnavailable if the job cannot be stored;
    with a key also IdempotencyMismatch, JobGone, and RequestRunning if the first request takes too long.
    """
    record = await _submit_once(request, context, body, record, source)
    note(job=record.id)
    return record


async def _submit_once(
    request: Request, context: Context, body: Body, record: JobRecord, source: FileContent | None
) -> JobRecord:
    name = idempotency_key(request)
    if name is None:
        return await _store_and_start(context, record, source)
    lease = IdempotencyLease(context, record.owner, name, await request_digest(request, body), request_id=record.id)
    deadline = asyncio.get_running_loop().time() + SUBMIT_S
    async with lease:
        while (first := await lease.acquire()) is not None:
            if first.state is not ClaimState.IN_PROGRESS:
                return await _earlier_job(context, first.id)
            if asyncio.get_running_loop().time() > deadline:
                raise RequestRunning(retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(SUBMIT_POLL_S)
        record = await _store_and_start(context, record, source)
        await lease.commit()
    return record


async def _earlier_job(context: Context, job_id: str) -> JobRecord:
    try:
        record = await context.job_store.record(job_id)
    except KeyError:
        raise JobGone from None
    except StoreUnavailable as error:
        raise store_unavailable(context, error, reading=True) from None
    if record.state.is_gone:
        raise JobGone("The job of this Idempotency-Key has been deleted; use another key to submit a new one.")
    return record


async def _store_and_start(context: Context, record: JobRecord, source: FileContent | None) -> JobRecord:
    try:
        decode_record(encode_record(record))
    except ValueError:
        raise InvalidField("The request contains text or values that cannot be stored.") from None
    await _check_source(context, record.url, source)
    report = await context.jobs.report_once_there()
    if report.running + report.waiting >= context.settings.jobs.waiting:
        raise QueueFull("The job queue is full.", retry_after_s=60)
    # Once begun it is finished, also if the client leaves: a job that is stored in part would run unseen.
    adding = asyncio.create_task(context.job_store.add(record, source))
    try:
        await asyncio.shield(adding)
    except asyncio.CancelledError:
        with suppress(StoreUnavailable):
            await adding
        raise
    except StoreUnavailable as error:
        raise store_unavailable(context, error) from None
    with suppress(ServiceUnavailable):  # the job is stored, so a Jobs replica will find it
        await context.jobs.wake(record)
    return record


async def _check_source(context: Context, url: str | None, source: FileContent | None) -> None:
    """Refuse an empty file, and a file type or a URL that the job could not read later."""
    if url is not None:
        check_source(url, context.settings)
        if not url.startswith(S3):
            await context.fetcher.check(url)
    if source is not None and not source:
        raise EmptyDocument
    if source is not None:
        sniff(source[:HEADER_SEARCH_BYTES])


async def end_job(context: Context, job_id: str, state: JobState) -> JobRecord:
    """Cancel or delete a job, and return its new record. Raises JobGone and ServiceUnavailable."""
    try:
        record = await context.jobs.end(job_id, state)
    except StoreUnavailable as error:
        raise store_unavailable(context, error) from None
    if record is None:
        raise JobGone
    return record


async def view_job(request: Request, context: Context, job_id: str) -> JobView:
    """Look up a job of the requesting key. Raises NotFound, also for a job of another key, JobGone and ServiceUnavailable."""
    view: JobView | None = None
    with suppress(ServiceUnavailable):  # the store has it while Jobs is being replaced
        view = await context.jobs.view(job_id)
    if view is None:
        try:
            record = await context.job_store.record(job_id)
            if record.state.is_active and record.owner == request.state.key_name:
                record.done = len(await context.job_store.page_numbers(job_id))
            view = JobView(record)
        except (KeyError, ValueError):
            raise NotFound("There is no such job.") from None
        except StoreUnavailable as error:
            raise store_unavailable(context, error, reading=True) from None
    if view.record.owner != request.state.key_name:
        raise NotFound("There is no such job.")
    if view.record.state.is_gone:
        raise JobGone
    return view


async def view_jobs(request: Request, context: Context, job_ids: Sequence[str]) -> list[JobView]:
    """Look up several jobs; leave out those that have been deleted."""
    few = asyncio.Semaphore(VIEWS_AT_ONCE)

    async def view(job_id: str) -> JobView:
        async with few:
            return await view_job(request, context, job_id)

    views = await asyncio.gather(*(view(job_id) for job_id in job_ids), return_exceptions=True)
    for each in views:
        if isinstance(each, BaseException) and not isinstance(each, JobGone | NotFound):
            raise each
    return [each for each in views if isinstance(each, JobView)]
