"""The services that routes use, and helpers for calling them. Each ingress replica has one Context."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.errors import RequestTimeout, ServiceUnavailable
from serve_app.fetching.url_fetcher import Fetcher
from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.wiring import PipelineServices
from serve_app.scheduling.admission import Admission, SharedAdmission
from serve_app.settings import Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links

log = logging.getLogger("ray.serve.ingress")

JOBS_CALL_S = 2.0
"""Seconds to wait for a response of the Jobs deployment. While it is being replaced, records are read from the store."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    services: PipelineServices
    links: Links
    fetcher: Fetcher
    admission: Admission
    watchers: SharedAdmission
    job_store: JobStore
    idempotency_store: IdempotencyStore
    jobs: DeploymentHandle[Any]
    jobs_monitor: JobsMonitor
    has_webhook_secret: bool

    @property
    def documents(self) -> Documents:
        return self.services.documents


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def request_deadline(context: Context, *, spent_s: float = 0) -> AsyncIterator[None]:
    """Limit the time until recognition starts to `request_s`, of which `spent_s` have passed. Raises RequestTimeout."""
    limit_s = context.settings.limits.request_s
    try:
        async with asyncio.timeout(limit_s - spent_s):
            yield
    except TimeoutError:
        raise RequestTimeout(f"The request took longer than {limit_s:g} s.") from None


async def call_jobs(response: Any, *, limit_s: float = JOBS_CALL_S) -> Any:
    """Await the response of a call to Jobs.

    Raises StoreUnavailable if that is the response, and ServiceUnavailable if there is no response within `limit_s`.
    """
    try:
        async with asyncio.timeout(limit_s):
            returned = await response
    except (TimeoutError, RayError, RayServeException) as error:
        if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
            log.exception("a call to Jobs failed")
        raise ServiceUnavailable(retry_after_s=5) from None
    if isinstance(returned, StoreUnavailable):
        raise returned
    return returned


def store_unavailable(context: Context, error: StoreUnavailable) -> ServiceUnavailable:
    """Report the failure to the store's monitor, for /health; return the error for the client."""
    context.services.store_monitor.report(error)
    return ServiceUnavailable("The store is not available; try again shortly.", retry_after_s=10)
