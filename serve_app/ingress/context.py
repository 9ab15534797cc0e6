"""The services that routes use, and helpers for calling them. Each ingress replica has one Context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from serve_app.errors import RequestTimeout, ServiceUnavailable
from serve_app.fetching.url_fetcher import Fetcher
from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.ingress.jobs_replicas import JobsReplicas
from serve_app.ingress.rasterizer_monitor import RasterizerMonitor
from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.pipeline.documents import Documents
from serve_app.pipeline.wiring import PipelineServices
from serve_app.runtime.temp_dir import has_room, writable
from serve_app.scheduling.admission import Admission, SharedAdmission
from serve_app.settings import Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links


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
    jobs: JobsReplicas
    jobs_monitor: JobsMonitor
    rasterizer_monitor: RasterizerMonitor
    has_webhook_secret: bool

    @property
    def has_room(self) -> bool:
        """Whether the folder for temporary files has room for one more upload."""
        folder = self.services.temp_dir
        return writable(folder) and has_room(folder, self.settings.limits.body_mb * 1e6)

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


def store_unavailable(context: Context, error: StoreUnavailable, *, reading: bool = False) -> ServiceUnavailable:
    """Tell the store's monitor of the failure, for /health; return the error for the client."""
    if reading:
        context.services.store_monitor.suspect()
    else:
        context.services.store_monitor.report(error)
    return ServiceUnavailable("The store is not available; try again shortly.", retry_after_s=10)
