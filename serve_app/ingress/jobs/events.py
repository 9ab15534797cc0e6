"""Server-sent events that follow a job to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any

from fastapi import Request

from serve_app.document import Page
from serve_app.errors import ServiceError, ServiceUnavailable
from serve_app.ingress.context import Context, store_unavailable
from serve_app.ingress.jobs.client import view_job
from serve_app.ingress.responses.document_events import EventResponse, as_sse
from serve_app.jobs.progress import JobView
from serve_app.jobs.response import job_response
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat
from serve_app.storage import StoreUnavailable

SILENCE_S = 15.0
"""Seconds without an event after which the job's state is sent again, so that no proxy takes the connection for dead."""

WAIT_S = 1.0
"""Longest wait for one change, in seconds. Short, since a replica that is stopping waits for its streams."""

Event = tuple[str, dict[str, Any]]


def job_events(
    view: JobView, request: Request, context: Context, resources: AbstractContextManager[Any], *, pages: bool
) -> EventResponse:
    """Stream a job's current state, and then each change. `resources` are released at the end of the stream."""
    events = _encode(_events(view, request, context, pages=pages), context)
    return EventResponse(events, MEDIA_TYPES[OutputFormat.EVENTS], resources)


async def _encode(events: AsyncGenerator[Event, None], context: Context) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(events):
            async for kind, data in events:
                yield as_sse(kind, data)
    except ServiceError as error:
        yield as_sse("error", {"code": error.code, "message": error.message})
    except StoreUnavailable as error:
        away = store_unavailable(context, error, reading=True)
        yield as_sse("error", {"code": away.code, "message": away.message})


async def _events(view: JobView, request: Request, context: Context, *, pages: bool) -> AsyncGenerator[Event, None]:
    sent_pages: set[int] = set()
    last: dict[str, Any] | None = None
    last_at = time.monotonic()
    while True:
        if pages:
            async with aclosing(_new_pages(view, context, sent_pages)) as new_pages:
                async for page in new_pages:
                    yield "page", {"page": page.model_dump(mode="json")}
        job = job_response(view)
        if job != last or time.monotonic() - last_at > SILENCE_S:
            yield "job", job
            last, last_at = job, time.monotonic()
        if not view.record.state.is_active:
            return
        if context.admission.is_closed:
            raise ServiceUnavailable("The service is stopping; the job resumes when it is back.", retry_after_s=10)
        view = await _next_view(view, request, context)


async def _next_view(view: JobView, request: Request, context: Context) -> JobView:
    """Wait for a newer view of the job, for WAIT_S at most."""
    latest: JobView | None = None
    with suppress(ServiceUnavailable):
        latest = await context.jobs.view(view.record.id, view.version, WAIT_S)
    if latest is None:  # it has ended, or continues in another replica, whose versions start again
        latest = await view_job(request, context, view.record.id)
        if latest.record.state.is_active:
            await asyncio.sleep(WAIT_S)
    return latest


async def _new_pages(view: JobView, context: Context, sent: set[int]) -> AsyncGenerator[Page, None]:
    """Yield the finished pages that have not been sent yet, and add their numbers to `sent`.

    A page that waits in the spool of another node comes once it is in the store.
    """
    job_id = view.record.id
    if view.pages is None:
        done, failed_pages = await context.job_store.finished_pages(job_id)
        failed = {page.number: page for page in failed_pages}
    else:
        done = [number for number, error in view.pages.items() if error is None]
        failed = {
            number: Page(number=number, width=0, height=0, dpi=0, error=error)
            for number, error in view.pages.items()
            if error is not None
        }
    for number in (*done, *failed):
        if number in sent:
            continue
        if number in failed:
            sent.add(number)
            yield failed[number]
            continue
        try:
            content, _ = await context.job_store.page(job_id, number)
        except KeyError:  # it is lost, not there yet, or the job is being deleted
            continue
        sent.add(number)
        yield content.page
