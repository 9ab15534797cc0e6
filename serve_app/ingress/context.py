"""What routes work with; one for each ingress replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from serve_app.admission import Admission
from serve_app.backend import Backend
from serve_app.documents import Documents
from serve_app.errors import RequestTimeout, ServiceUnavailable
from serve_app.fetching.fetch import Fetcher
from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.jobs.claims import Claims
from serve_app.jobs.ledger import Ledger
from serve_app.settings import Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links

ASK_S = 2.0
"""How long Jobs may take to answer; while it is being replaced, records are read from the store."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    backend: Backend
    links: Links
    fetcher: Fetcher
    admission: Admission
    watchers: Admission
    ledger: Ledger
    claims: Claims
    jobs: DeploymentHandle[Any]
    jobs_monitor: JobsMonitor
    has_webhook_secret: bool

    @property
    def documents(self) -> Documents:
        return self.backend.documents


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


@asynccontextmanager
async def in_time(context: Context) -> AsyncIterator[None]:
    """For what comes before recognition. Raises RequestTimeout."""
    limit_s = context.settings.limits.request_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise RequestTimeout(f"The request took longer than {limit_s:g} s.") from None


async def asked(response: Any) -> Any:
    """What Jobs answers. Raises ServiceUnavailable where it does not."""
    try:
        async with asyncio.timeout(ASK_S):
            return await response
    except (TimeoutError, RayError):
        raise ServiceUnavailable(retry_after_s=5) from None


def store_away(context: Context, error: StoreUnavailable) -> ServiceUnavailable:
    """For the client, after `/health` is told."""
    context.backend.store_monitor.report(error)
    return ServiceUnavailable("The store is not available; try again shortly.", retry_after_s=10)
