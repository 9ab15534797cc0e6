"""The Ingress deployment: builds the FastAPI application with its routes and middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import Lifespan, Scope

from serve_app import __version__
from serve_app.fetching.url_fetcher import Fetcher
from serve_app.ingress.context import Context
from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.ingress.jobs_replicas import JobsReplicas
from serve_app.ingress.keys import KeyRing
from serve_app.ingress.middleware import error_responses
from serve_app.ingress.middleware.auth import Authentication
from serve_app.ingress.middleware.documentation import DocumentationPolicy, documented_app, is_documentation
from serve_app.ingress.middleware.request_end import RequestEnd
from serve_app.ingress.middleware.request_id import RequestId
from serve_app.ingress.middleware.request_scope import PROBES, SIGNED_FILES, may_be_paddlex, path_of
from serve_app.ingress.rasterizer_monitor import RasterizerMonitor
from serve_app.ingress.routes import files, jobs, ocr, official_jobs, paddlex, probes, service
from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.pipeline.wiring import PipelineServices, open_services
from serve_app.runtime.allocator import limit_arenas
from serve_app.runtime.broadcast import with_own_router
from serve_app.runtime.serve_log import set_up_log
from serve_app.scheduling.admission import Admission, SharedAdmission
from serve_app.settings import Secrets, Settings
from serve_app.storage.links import Links

WATCHERS = 32
"""Maximum event streams and long polls per replica, so that they leave room for other requests."""


@serve.ingress()
class Ingress:
    """One replica: a FastAPI application with its Context. Pixels never pass through it."""

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        keys: KeyRing,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        jobs: DeploymentHandle[Any],
    ) -> None:
        limit_arenas()
        set_up_log()
        self._keys = keys
        self._docs_open = settings.docs_without_key
        services = open_services(settings, secrets, rasterizer, recognizers)
        self._context = open_context(settings, secrets, services, rasterizer, jobs)

    async def drain(self) -> tuple[str, int]:
        """Stop accepting requests. Returns this replica's id and the number of requests in progress."""
        self._context.admission.close()
        return serve.get_replica_context().replica_id.unique_id, self._context.admission.in_use

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._context, self._keys, docs_open=self._docs_open)


def open_context(
    settings: Settings,
    secrets: Secrets,
    services: PipelineServices,
    rasterizer: DeploymentHandle[Any],
    jobs: DeploymentHandle[Any],
) -> Context:
    replicas = JobsReplicas(jobs)
    return Context(
        settings=settings,
        services=services,
        links=Links(services.store, settings),
        fetcher=Fetcher(
            max_bytes=int(settings.limits.body_mb * 1e6),
            deadline_s=settings.limits.fetch_s,
            allowed_networks=settings.allowed_private_networks,
        ),
        admission=Admission(settings.limits.requests),
        watchers=SharedAdmission(WATCHERS, each=WATCHERS // 2),
        job_store=JobStore(services.store, services.documents.cache, services.writes),
        idempotency_store=IdempotencyStore(services.store),
        jobs=replicas,
        jobs_monitor=JobsMonitor(replicas),
        rasterizer_monitor=RasterizerMonitor(with_own_router(rasterizer)),
        has_webhook_secret=secrets.webhook_secret is not None,
    )


def create_api(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Create the application with all routes, without middleware: enough to describe the API."""
    api = documented_app(
        title=service.SERVICE,
        version=__version__,
        description="Turns documents into structured text. Enter your API key under `Authorize`.",
        lifespan=lifespan,
    )
    api.include_router(service.router)
    api.include_router(probes.router)
    api.include_router(ocr.router)
    api.include_router(paddlex.router)
    api.include_router(files.router)
    api.include_router(jobs.router)
    api.include_router(official_jobs.router)
    return api


def create_app(context: Context, keys: KeyRing, *, docs_open: bool) -> FastAPI:
    """Create the application of an ingress replica. Its lifespan runs the monitors, and closes the store at the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watches = context.services.watches(context.job_store.is_page_of_gone_job)
        watches = [*watches, context.jobs_monitor.run(), context.rasterizer_monitor.run()]
        tasks = [asyncio.create_task(watch) for watch in watches]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await context.fetcher.close()
        await context.services.store.close()

    app = create_api(lifespan)
    app.state.context = context
    error_responses.install(app)

    def is_open(scope: Scope) -> bool:
        path = path_of(scope)
        if "paddlex" in context.settings.open_surfaces and may_be_paddlex(scope):
            return True
        if path in PROBES or path.startswith(SIGNED_FILES):
            return True
        return docs_open and is_documentation(path)

    # The last middleware added is the outermost.
    app.add_middleware(DocumentationPolicy)
    app.add_middleware(Authentication, keys=keys, is_open=is_open)
    app.add_middleware(error_responses.ErrorResponses)
    app.add_middleware(RequestId)
    app.add_middleware(RequestEnd)
    return app
