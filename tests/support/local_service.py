"""The whole service in this process, without Ray: the real application over a real socket, and real replicas behind it.

Stand-ins are only what Serve would be: the handles between the parts (`LocalHandle`) and the proxy in front of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import itertools
import logging
import pickle
import socket
import sys
import tempfile
import threading
import traceback
import uuid
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvicorn
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from ray.exceptions import RayTaskError, TaskCancelledError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.app import RESULT_WRITERS
from serve_app.ingress.deployment import create_app, open_context
from serve_app.ingress.keys import KeyRing, configured_keys
from serve_app.jobs.deployment import Jobs
from serve_app.pipeline.wiring import FileSharing, open_services
from serve_app.raster.deployment import Rasterizer
from serve_app.runtime.mapped_file import FileContent
from serve_app.runtime.request_context import use_request_id
from serve_app.settings import Secrets, Settings, with_environment
from tests.support.recognizer import LocalRecognizer, initialized
from tests.support.service import KEYS, Service, environment

JANITOR_INTERVAL_S = 1
BEAT_S = 0.3
HANG_S = 3600
T = TypeVar("T")
START_S = 30
STOP_S = 30


class SharedFile:
    """A file in what stands for Ray's object store: passed on by reference, read without a copy."""

    def __init__(self, content: FileContent) -> None:
        self.array = np.frombuffer(content, np.uint8)

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.array


async def _fetch(shared: SharedFile) -> memoryview:
    return memoryview(await shared)


SHARING = FileSharing(SharedFile, _fetch)


class _Pickler(pickle.Pickler):
    """By value, as between processes, but for what is passed by reference there too."""

    def __init__(self, stream: io.BytesIO, references: list[Any]) -> None:
        super().__init__(stream, protocol=5)
        self._references = references

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, SharedFile):
            return None
        self._references.append(obj)
        return len(self._references) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, references: list[Any]) -> None:
        super().__init__(stream)
        self._references = references

    def persistent_load(self, pid: int) -> Any:
        return self._references[pid]


def by_value(value: Any) -> Any:
    """A copy of what one process sends to another."""
    references: list[Any] = []
    stream = io.BytesIO()
    _Pickler(stream, references).dump(value)
    stream.seek(0)
    return _Unpickler(stream, references).load()


class LocalResponse:
    """Stands for a DeploymentResponse: awaited any number of times, handed on to another call, or cancelled."""

    def __init__(self, call: Awaitable[Any]) -> None:
        # The caller's log context is not the replica's.
        self._task = asyncio.ensure_future(call)
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def __await__(self) -> Generator[Any, None, Any]:
        # A caller that is cancelled does not end the call; `cancel` does.
        try:
            return by_value((yield from asyncio.shield(self._task).__await__()))
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise TaskCancelledError from None
            raise

    async def get_async(self) -> Any:
        return await self

    def cancel(self) -> None:
        self._task.cancel()


class LocalHandle:
    """Stands for a DeploymentHandle: `.method.remote(...)` calls the method of one of the objects in this event loop.

    They take turns, but for calls of one session, which come to one of them. Arguments and results are copied, as between
    processes. Errors come as Serve delivers them: as a RayTaskError that is an instance of the error's own class too.
    """

    def __init__(self, *replicas: Any, session_id: str | None = None) -> None:
        self.replicas = list(replicas)
        self._session_id = session_id
        self._turns = itertools.count()

    def options(self, *, session_id: str) -> LocalHandle:
        return LocalHandle(*self.replicas, session_id=session_id)

    def broadcast(self, method: str, *arguments: Any, **named: Any) -> LocalBroadcast:
        return LocalBroadcast(
            [getattr(LocalHandle(each), method).remote(*arguments, **named) for each in self.replicas]
        )

    def __getattr__(self, name: str) -> LocalMethod:
        turn = next(self._turns) if self._session_id is None else zlib.crc32(self._session_id.encode())
        return LocalMethod(getattr(self.replicas[turn % len(self.replicas)], name))


class LocalBroadcast:
    """Stands for a DeploymentBroadcastResponse."""

    def __init__(self, responses: list[LocalResponse]) -> None:
        self._responses = responses

    async def _fetch_replica_results_async(self) -> list[LocalResponse]:
        return self._responses


class LocalMethod:
    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self._method = method

    def remote(self, *arguments: Any, **named: Any) -> LocalResponse:
        return LocalResponse(contextvars.copy_context().run(self._call, *arguments, **named))

    async def _call(self, *arguments: Any, **named: Any) -> Any:
        ready = [await each if isinstance(each, LocalResponse) else by_value(each) for each in arguments]
        ready = [each.array if isinstance(each, SharedFile) else each for each in ready]
        try:
            return await self._method(*ready, **by_value(named))
        except Exception as error:
            raise RayTaskError(self._method.__name__, traceback.format_exc(), error).as_instanceof_cause() from None


class LocalJobs(Jobs):
    """Only Serve awaits an asynchronous `__del__`; here `close` does its work."""

    def __del__(self) -> None:  # type: ignore[override]  # only Serve awaits the one of Jobs
        """Do nothing, so the garbage collector does not create a coroutine that is never awaited."""

    async def close(self) -> None:
        await super().__del__()

    async def die(self) -> None:
        """Stop as a killed process does: without a word to the others."""
        for task in self._tasks:
            task.cancel()
        await self._scheduler.stop_all()
        for job_id in list(self._webhooks._deliveries):
            await self._webhooks.stop(job_id)


class _Silent:
    """Stands for a replica that hangs."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return self._hang

    async def _hang(self, *_: Any) -> Any:
        await asyncio.sleep(HANG_S)


@dataclass(frozen=True)
class LocalService(Service):
    """A service in this process, whose replicas the test may look at; those of Jobs it may cut off, kill, or call."""

    thread: _ServerThread

    @property
    def jobs(self) -> list[LocalJobs]:
        """The Jobs replicas that handles reach."""
        return self.thread.jobs.replicas

    @property
    def recognizers(self) -> dict[str, list[LocalRecognizer]]:
        """The replicas of each engine, by the engine's name."""
        return self.thread.recognizers

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the service."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.thread.loop).result(30)

    def kill(self, replica: LocalJobs) -> None:
        self.jobs.remove(replica)
        self.call(replica.die())

    @contextmanager
    def hanging(self, *replicas: LocalJobs) -> Iterator[None]:
        """Let these respond to nothing meanwhile. Their work goes on."""
        before = list(self.jobs)
        silent: Any = _Silent()
        self.jobs[:] = [silent if each in replicas else each for each in before]
        try:
            yield
        finally:
            self.jobs[:] = before


class _Proxy:
    """What Serve does to a request: an application's route prefix, an id in the request and the response, and a span.

    The ingress replicas take turns. A call ends when its client leaves.
    """

    def __init__(self, apps: Sequence[ASGIApp], prefix: str) -> None:
        self._apps = itertools.cycle(apps)
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        scope = {**scope, "root_path": self._prefix, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=scope)
        request_id = headers.get("x-request-id") or uuid.uuid4().hex
        if "x-request-id" not in headers:
            headers["x-request-id"] = request_id

        is_sent = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_sent
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            is_sent = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        left: asyncio.Future[Message] | None = None

        async def receive_and_listen() -> Message:
            nonlocal left
            if left is None:
                message = await receive()
                if not message.get("more_body"):
                    left = asyncio.ensure_future(receive())  # what comes after the body is the end
                    left.add_done_callback(lambda _: is_sent or call.cancel())
                return message
            return await asyncio.shield(left)

        use_request_id(request_id)
        parent = TraceContextTextMapPropagator().extract(headers)
        with trace.get_tracer("serve").start_as_current_span("replica_handle_request", context=parent):
            call = asyncio.ensure_future(next(self._apps)(scope, receive_and_listen, send_with_id))
            try:
                await call
            except asyncio.CancelledError:
                if left is None or not left.done():  # the service ends, not the client
                    call.cancel()
                    raise
            finally:
                if left is not None:
                    left.cancel()


@contextmanager
def running(
    settings: dict[str, Any], *, name: str, secrets: dict[str, str] | None = None, beat_s: float = BEAT_S
) -> Iterator[LocalService]:
    """Serve these settings at /`name` of a free port, until the end of the context. `beat_s`: of Jobs replicas."""
    temp_dir = tempfile.tempdir  # a process has one, and this one serves several applications
    with environment(OCR_API_KEYS=KEYS, **(secrets or {})):
        validated = with_environment(Settings.model_validate(settings))
        loaded = Secrets.from_environment()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = _ServerThread(validated, loaded, name, listener, beat_s)
        thread.start()
        try:
            thread.wait_until_started()
            yield LocalService(name, f"http://127.0.0.1:{listener.getsockname()[1]}/{name}", thread)
        finally:
            thread.stop()
            tempfile.tempdir = temp_dir


class _ServerThread(threading.Thread):
    """An event loop with every part of the service in it."""

    def __init__(self, settings: Settings, secrets: Secrets, name: str, listener: socket.socket, beat_s: float) -> None:
        super().__init__(name=f"service-{name}", daemon=True)
        self.jobs = LocalHandle()
        self.recognizers: dict[str, list[LocalRecognizer]] = {}
        self._beat_s = beat_s
        self._settings, self._secrets, self._prefix = settings, secrets, f"/{name}"
        self._listener = listener
        self._server: uvicorn.Server | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        settings, secrets = self._settings, self._secrets
        rasterizer: Any = LocalHandle(Rasterizer(settings.raster, settings.limits, settings.temp_dir))
        replicas = self.recognizers
        for engine in settings.engines:
            count = engine.replicas if isinstance(engine.replicas, int) else 1
            replicas[engine.name] = [
                await initialized(LocalRecognizer, engine, settings.limits, secrets.vlm_api_key) for _ in range(count)
            ]
        recognizers: Any = {engine: LocalHandle(*of_engine) for engine, of_engine in replicas.items()}
        for _ in range(settings.jobs.replicas):
            each = LocalJobs.__new__(LocalJobs)
            self.jobs.replicas.append(each)
            await each.__init__(  # type: ignore[misc]  # as Serve does
                settings,
                secrets,
                rasterizer,
                recognizers,
                RESULT_WRITERS,
                SHARING,
                janitor_interval_s=JANITOR_INTERVAL_S,
                beat_s=self._beat_s,
            )
        handle: Any = self.jobs
        apps = []
        for _ in range(settings.ingress_replicas):
            services = open_services(settings, secrets, rasterizer, recognizers, SHARING)
            context = open_context(settings, secrets, services, rasterizer, handle)
            keys = KeyRing(configured_keys(settings, secrets))
            apps.append(create_app(context, keys, docs_open=settings.docs_without_key))
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Proxy(apps, self._prefix),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                lifespan="off",
            )
        )
        async with AsyncExitStack() as lifespans:
            for app in apps:
                await lifespans.enter_async_context(app.router.lifespan_context(app))
            await self._server.serve(sockets=[self._listener])
        for each in self.jobs.replicas:
            await each.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for replica in itertools.chain(*replicas.values()):
            await replica.close()

    def wait_until_started(self) -> None:
        for _ in range(START_S * 100):
            if self._server is not None and self._server.started:
                return
            if not self.is_alive():
                break
            self.join(0.01)
        raise RuntimeError("the service did not start") from self._error

    def stop(self) -> None:
        """End it and wait for that. Raises what ended it, if it was not this."""
        if self._server is not None:
            self._server.should_exit = True
        self.join(STOP_S)
        assert not self.is_alive(), f"the service {self._prefix} does not end:\n{self._what_runs()}"
        if self._error is not None:
            raise self._error

    def _what_runs(self) -> str:
        """The stacks of the tasks of the event loop and of all threads."""
        lines = io.StringIO()
        for task in asyncio.all_tasks(self.loop):
            task.print_stack(file=lines)
        for ident, frame in sys._current_frames().items():
            lines.write(f"Thread {ident}:\n")
            lines.writelines(traceback.format_stack(frame))
        return lines.getvalue()


@contextmanager
def local_deployments(folder: Path) -> Iterator[Callable[..., LocalService]]:
    """Runs applications as the fixture `deployed` does, with a store and a temporary folder below `folder`."""
    names: list[str] = []
    with ExitStack() as services:

        def deploy_one(settings: dict[str, Any], **options: Any) -> LocalService:
            names.append(f"app-{len(names)}")
            defaults = {
                "store": {"kind": "folder", "path": str(folder / "output")},
                "temp_dir": str(folder / "temp"),
                "spool_dir": str(folder / "spool"),
            }
            return services.enter_context(running({**defaults, **settings}, name=names[-1], **options))

        yield deploy_one


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
