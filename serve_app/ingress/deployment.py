"""The Ingress: HTTP in and out. Reads requests, hands bytes to the pipeline, stores and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app import __version__
from serve_app.admission import Admission
from serve_app.allocator import keep_little
from serve_app.documents import Documents
from serve_app.file_content import FileContent
from serve_app.ingress import error_responses
from serve_app.ingress.auth import Authentication
from serve_app.ingress.context import Context
from serve_app.ingress.documentation import DocumentationPolicy, documented_app, is_documentation
from serve_app.ingress.fetch import Fetcher
from serve_app.ingress.keys import KeyRing
from serve_app.ingress.links import Links
from serve_app.ingress.monitors import EngineMonitor
from serve_app.ingress.request_id import RequestId
from serve_app.ingress.request_scope import PADDLEX_PATHS, SHARED_PATH, SIGNED_PATHS
from serve_app.ingress.routes import files, ocr, paddlex, service
from serve_app.pipeline import Pipeline
from serve_app.recognition.deployment import EnginePhase
from serve_app.settings import Secrets, Settings, resolve
from serve_app.storage import open_store
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.results import Results
from serve_app.temp_dir import use_temp_dir


@serve.ingress()
class Ingress:
    """One replica: a FastAPI application on its own context. Pixels never pass through here."""

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        keys: KeyRing,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        keep_little()
        limits = settings.limits
        self._keys = keys
        self._docs_open = settings.docs_without_key
        store = open_store(settings.store, secrets)
        store_monitor = StoreMonitor(store)
        temp_dir = resolve(settings.temp_dir)
        use_temp_dir(temp_dir)
        engines: dict[str, EngineMonitor] = {
            engine.name: EngineMonitor(
                recognizers[engine.name],
                before_contact=EnginePhase.INITIALIZING if engine.load == "eager" else EnginePhase.NOT_INITIALIZED,
            )
            for engine in settings.engines
        }
        pipeline = Pipeline(
            rasterizer,
            recognizers,
            queue=limits.queue,
            window=limits.pages_in_flight,
            is_ready=lambda engine: engines[engine].is_ready,
            has_replicas=lambda engine: engines[engine].has_replicas,
            engine_wait_s=limits.engine_wait_s,
            fallbacks={engine.name: engine.fallback for engine in settings.engines if engine.fallback is not None},
        )
        self._context = Context(
            settings=settings,
            documents=Documents(
                pipeline,
                Results(store, store_monitor, keep_source=settings.store.keep_source),
                limits=limits,
                share=_shared,
                fetch=_fetched,
            ),
            fetcher=Fetcher(
                max_bytes=int(limits.body_mb * 1e6),
                deadline_s=limits.fetch_s,
                allowed_networks=settings.allowed_private_networks,
            ),
            engines=engines,
            store=store,
            store_monitor=store_monitor,
            links=Links(store, settings),
            admission=Admission(limits.requests),
            temp_dir=temp_dir,
        )

    async def drain(self) -> tuple[str, int]:
        """Take no more requests; returns this replica's id, and how many it is still at work on."""
        self._context.admission.close()
        return serve.get_replica_context().replica_id.unique_id, self._context.admission.held

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._context, self._keys, docs_open=self._docs_open)


def _shared(source: FileContent) -> Any:
    """A file in Ray's object store, where each rasterizer finds it, without copies, as long as we hold the reference."""
    return ray.put(np.frombuffer(source, np.uint8))


async def _fetched(shared: Any) -> memoryview:
    """The file, where it lies."""
    array = await shared
    return memoryview(array)


def create_app(context: Context, keys: KeyRing, *, docs_open: bool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(monitor.run()) for monitor in context.engines.values()]
        tasks.append(asyncio.create_task(context.store_monitor.run()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await context.fetcher.close()
        await context.store.close()

    app = documented_app(
        title=service.SERVICE,
        version=__version__,
        description="Documents in, structured text out. `Authorize` takes an API key.",
        lifespan=lifespan,
    )
    app.state.context = context
    app.include_router(service.router)
    app.include_router(ocr.router)
    app.include_router(paddlex.router)
    app.include_router(files.router)
    error_responses.install(app)

    def is_open(path: str) -> bool:
        if "paddlex" in context.settings.open_surfaces and path in (*PADDLEX_PATHS, SHARED_PATH):
            return True
        if path.startswith(SIGNED_PATHS):
            return True
        return docs_open and is_documentation(path)

    # The last one added is the outermost.
    app.add_middleware(DocumentationPolicy)
    app.add_middleware(Authentication, keys=keys, is_open=is_open)
    app.add_middleware(error_responses.ErrorResponses)
    app.add_middleware(RequestId)
    return app
