"""Records the response to the first request with an Idempotency-Key, and replays it to requests that repeat it."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import BinaryIO, cast

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.errors import JobGone, RequestRunning
from serve_app.ingress.context import Context, store_unavailable
from serve_app.ingress.idempotency.lease import RETRY_AFTER_S, IdempotencyLease, idempotency_key, request_digest
from serve_app.ingress.requests.body import Body
from serve_app.ingress.responses.document_events import EventStream
from serve_app.ingress.responses.files import file_response
from serve_app.jobs.idempotency_store import Claim
from serve_app.outputs.rendering import BYTES_IN_MEMORY
from serve_app.storage import StoreUnavailable


async def respond_once(
    request: Request,
    context: Context,
    body: Body,
    resources: ExitStack,
    respond: Callable[[ExitStack], Awaitable[Response]],
) -> Response:
    """Return the response of `respond`, or the recorded one if the request repeats one with the same Idempotency-Key.

    `resources` are released once the response is sent; `respond` gets a stack for further ones. Raises InvalidField,
    IdempotencyMismatch, RequestRunning, and ServiceUnavailable if the key cannot be acquired.
    """
    name = idempotency_key(request)
    if name is None:
        return await respond(resources)
    digest = await request_digest(request, body, accept=request.headers.get("accept", ""))
    lease = IdempotencyLease(context, request.state.key_name or "", name, digest, request_id=uuid.uuid4().hex)
    async with AsyncExitStack() as work:
        await work.enter_async_context(lease)
        first = await lease.acquire()
        if first is not None:
            return await _replay(context, lease, first, resources)
        response = await respond(work.enter_context(ExitStack()))
        work.push(resources.pop_all())
        return _RecordingResponse(response, lease, work.pop_all())


async def _replay(context: Context, lease: IdempotencyLease, first: Claim, resources: ExitStack) -> Response:
    if first.headers is None:
        raise RequestRunning(retry_after_s=RETRY_AFTER_S)
    try:
        file = await context.idempotency_store.open_response(lease.owner, lease.name)
    except KeyError:
        raise JobGone("The response to the first request with this Idempotency-Key has been deleted.") from None
    except StoreUnavailable as error:
        raise store_unavailable(context, error, reading=True) from None
    return _recorded_response(file, {**first.headers, "idempotent-replayed": "true"}, resources)


def _recorded_response(file: BinaryIO, headers: dict[str, str], resources: ExitStack) -> Response:
    others = {name: value for name, value in headers.items() if name not in ("content-type", "content-length")}
    return file_response(file, headers["content-type"], others, resources)


class _RecordingResponse(Response):
    """Sends a response, records it and commits it to the lease.

    The response is stored before it is sent, so that a failing connection does not lose it. A stream is recorded as it is
    sent, and stored before its end is sent: a client that has received all of it can repeat the request at once.
    """

    def __init__(self, response: Response, lease: IdempotencyLease, work: AsyncExitStack) -> None:
        super().__init__()
        self._response = response
        self._lease = lease
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._work:
            if isinstance(self._response, EventStream):
                recording = _Recording(send)
                with recording.file:
                    await self._response(scope, receive, recording)
                    if recording.end is not None:
                        if self._response.summary is not None:
                            await self._lease.commit_with_response(recording.file, recording.headers)
                        await send(recording.end)
                return
            recording = _Recording()
            await self._response(scope, _never, recording)
            await self._lease.commit_with_response(recording.file, recording.headers)
            await _recorded_response(recording.file, recording.headers, ExitStack())(scope, receive, send)


class _Recording:
    """An ASGI `send` that records a response. It passes all messages but the last one on to `send`, if there is one."""

    def __init__(self, send: Send | None = None) -> None:
        self.file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115
        self.headers: dict[str, str] = {}
        self.end: Message | None = None
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.file.write(message.get("body", b""))
            if not message.get("more_body", False):
                self.end = message
                return
        if self._send is not None:
            await self._send(message)


async def _never() -> Message:
    """Never return. An ASGI `receive` for a response that is only recorded, so that no client can disconnect."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
