"""A job as it goes on: server-sent events until its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any

from fastapi import Request

from serve_app.document import Page
from serve_app.errors import ServiceError, ServiceUnavailable
from serve_app.ingress.context import ASK_S, Context, asked, store_away
from serve_app.ingress.jobs.client import view_of
from serve_app.ingress.responses.document_events import HeldStream, as_sse
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import told
from serve_app.outputs.formats import MEDIA_TYPES, OutputFormat
from serve_app.storage import StoreUnavailable

SILENCE_S = 15.0
"""How long nothing may be said, lest a proxy takes the connection for dead."""

LOOK_S = 1.0
"""How long to wait for news at a time: a service that is being stopped is not to wait for who only watches."""


def shown(view: JobView) -> dict[str, Any]:
    """What its owner is told of a job."""
    return {**told(view.record), "position": view.position, "left_s": view.left_s}


def job_events(
    view: JobView, request: Request, context: Context, held: AbstractContextManager[Any], *, pages: bool
) -> HeldStream:
    """Says of a job what there is to say, and then what is new."""
    events = _framed(_events(view, request, context, pages=pages), context)
    return HeldStream(events, MEDIA_TYPES[OutputFormat.EVENTS], held)


async def _framed(
    events: AsyncGenerator[tuple[str, dict[str, Any]], None], context: Context
) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(events):
            async for kind, data in events:
                yield as_sse(kind, data)
    except ServiceError as error:  # it is deleted, or nobody knows now
        yield as_sse("error", {"code": error.code, "message": error.message})
    except StoreUnavailable as error:
        away = store_away(context, error)
        yield as_sse("error", {"code": away.code, "message": away.message})


async def _events(
    view: JobView, request: Request, context: Context, *, pages: bool
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    said: set[int] = set()
    last: dict[str, Any] | None = None
    last_at = time.monotonic()
    while True:
        if pages:
            async with aclosing(_new_pages(view, context, said)) as new_pages:
                async for page in new_pages:
                    yield "page", {"page": page.model_dump(mode="json")}
        job = shown(view)
        if job != last or time.monotonic() - last_at > SILENCE_S:
            yield "job", job
            last, last_at = job, time.monotonic()
        if not view.record.state.is_active:
            return
        if context.admission.is_closed:
            raise ServiceUnavailable("The service is being stopped; the job goes on when it is back.", retry_after_s=10)
        view = await _later(view, request, context)


async def _later(view: JobView, request: Request, context: Context) -> JobView:
    """The job after a while, or as soon as there is news."""
    latest: JobView | None = None
    with suppress(ServiceUnavailable):
        latest = await asked(context.jobs.view.remote(view.record.id, view.version, LOOK_S), limit_s=LOOK_S + ASK_S)
    if latest is None:  # it is at its end, or goes on in another replica, which begins to count anew
        latest = await view_of(request, context, view.record.id)
        if latest.record.state.is_active:
            await asyncio.sleep(LOOK_S)
    return latest


async def _new_pages(view: JobView, context: Context, said: set[int]) -> AsyncGenerator[Page, None]:
    """Pages that have come to their end and of which was not said yet."""
    job_id = view.record.id
    if view.pages is None:
        ended = dict.fromkeys(await context.job_store.page_numbers(job_id))
        failed = {page.number: page for page in await context.job_store.failed_pages(job_id)}
    else:
        ended = dict.fromkeys(number for number, error in view.pages.items() if error is None)
        failed = {
            number: Page(number=number, width=0, height=0, dpi=0, error=error)
            for number, error in view.pages.items()
            if error is not None
        }
    for number in (*ended, *failed):
        if number in said:
            continue
        said.add(number)
        if number in failed:
            yield failed[number]
            continue
        try:
            reading, _ = await context.job_store.page(job_id, number)
        except KeyError:  # it is lost, or the job is just being deleted
            continue
        yield reading.page
