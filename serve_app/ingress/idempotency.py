"""Idempotency-Key: of requests with the same key, the first is worked on, and its answer is that of all."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import logging
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import BinaryIO, cast

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.errors import IdempotencyMismatch, InvalidField, JobGone, RequestRunning
from serve_app.ingress.context import Context, call_jobs, store_unavailable
from serve_app.ingress.requests.body import Body
from serve_app.ingress.responses.document_events import EventStream
from serve_app.ingress.responses.files import file_response
from serve_app.jobs.idempotency_store import LEASE_S, Claim
from serve_app.outputs.rendering import BYTES_IN_MEMORY
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.ingress")

MAX_IDEMPOTENCY_KEY = 255
RETRY_AFTER_S = 5


def idempotency_key(request: Request) -> str | None:
    """Raises InvalidField."""
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise InvalidField("Idempotency-Key: may be given once.")
    key = keys[0] if keys else None
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidField(f"Idempotency-Key: may have 1 to {MAX_IDEMPOTENCY_KEY} characters.")
    return key


async def request_digest(request: Request, body: Body, *, accept: str = "") -> str:
    """What tells requests apart that have the same key: the path, the fields, the file, the form of the answer."""
    return await asyncio.to_thread(_digest, request.url.path, accept, body)


def _digest(path: str, accept: str, body: Body) -> str:
    digest = hashlib.sha256(json.dumps([path, accept, body.fields], sort_keys=True).encode())
    digest.update(body.file or b"")
    return digest.hexdigest()


async def answered_once(
    request: Request, context: Context, body: Body, held: ExitStack, answer: Callable[[ExitStack], Awaitable[Response]]
) -> Response:
    """What `answer` makes, or what it made for the first request with the same Idempotency-Key.

    `answer` takes what is held until its answer was sent, as does this. Raises InvalidField, IdempotencyMismatch,
    RequestRunning, and ServiceUnavailable where nothing can be promised.
    """
    name = idempotency_key(request)
    if name is None:
        return await answer(held)
    digest = await request_digest(request, body, accept=request.headers.get("accept", ""))
    turn = Turn(context, request.state.key_name or "", name, digest, request_id=uuid.uuid4().hex)
    async with AsyncExitStack() as work:
        await work.enter_async_context(turn)
        if not await turn.is_first():
            return await _replayed(context, turn, held)
        response = await answer(work.enter_context(ExitStack()))
        work.push(held.pop_all())
        return _AnsweredOnce(response, turn, work.pop_all())


async def _replayed(context: Context, turn: Turn, held: ExitStack) -> Response:
    headers = turn.first.headers
    if headers is None:
        raise RequestRunning(retry_after_s=RETRY_AFTER_S)
    try:
        file = await context.idempotency_store.answer(turn.owner, turn.name)
    except KeyError:
        raise JobGone("The answer to the first request with this Idempotency-Key is deleted.") from None
    except StoreUnavailable as error:
        raise store_unavailable(context, error) from None
    return _file_answer(file, {**headers, "idempotent-replayed": "true"}, held)


def _file_answer(file: BinaryIO, headers: dict[str, str], held: ExitStack) -> Response:
    others = {name: value for name, value in headers.items() if name not in ("content-type", "content-length")}
    return file_response(file, headers["content-type"], others, held)


class Turn:
    """The claim of a request with a key, to be entered before it is made: given back unless what it is for is settled.

    `first` is the claim of the first request with the key, once it was asked for.
    """

    def __init__(self, context: Context, owner: str, name: str, digest: str, *, request_id: str) -> None:
        """`request_id` is its own, or that of the job that it makes."""
        self.owner = owner
        self.name = name
        self.claim = Claim(request_id, digest, time.time(), until=time.time() + LEASE_S)
        self.first = self.claim
        self._context = context
        self._idempotency_store = context.idempotency_store
        self._settled = False
        self._asking: asyncio.Task[Claim] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def is_first(self) -> bool:
        """Whether this request is the first one with its key, which it stays from then on.

        Raises IdempotencyMismatch where that is another request, and ServiceUnavailable.
        """
        # In a context of its own: with the request's, Serve would cancel it together with that, and whether it was
        # kept would not be known for a while.
        self._asking = asyncio.create_task(self._asked(), context=contextvars.Context())
        try:
            self.first = await asyncio.shield(self._asking)
        except StoreUnavailable as error:
            raise store_unavailable(self._context, error) from None
        if self.first.digest != self.claim.digest:
            raise IdempotencyMismatch
        if self.first.id != self.claim.id:
            return False
        self._renewing = asyncio.create_task(self._renew())
        return True

    async def _asked(self) -> Claim:
        claim = replace(self.claim, until=time.time() + LEASE_S)
        first: Claim = await call_jobs(self._context.jobs.claim.remote(self.owner, self.name, claim))
        return first

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A client that leaves may cancel its request more than once.
        self._leaving = asyncio.create_task(self._leave())
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        await self._stop_renewing()
        if self._asking is not None:
            await asyncio.wait({self._asking})  # whoever has left meanwhile may have it or not
        if self._settled or self.first.id != self.claim.id:
            return
        try:
            kept = await self._idempotency_store.get(self.owner, self.name)
            if kept is not None and kept.id == self.claim.id:
                await self._idempotency_store.release(self.owner, self.name)
        except StoreUnavailable as unavailable:  # it ends by itself
            log.warning("an Idempotency-Key cannot be given back: %s", unavailable)

    async def keep(self, answer: BinaryIO, headers: dict[str, str]) -> None:
        """Keep the answer for those who come later; where that fails, one of them is the first again."""
        answer.seek(0)
        try:
            await self._idempotency_store.put_answer(self.owner, self.name, answer)
        except StoreUnavailable as error:
            log.error("an answer could not be kept for its Idempotency-Key: %s", error)
            return
        await self.settle(headers)

    async def settle(self, headers: dict[str, str] | None = None) -> None:
        """What was asked for is there, for those who come later as well. `headers`: of an answer that was kept."""
        await self._stop_renewing()
        self._settled = True
        try:
            await self._idempotency_store.put(self.owner, self.name, replace(self.claim, until=None, headers=headers))
        except StoreUnavailable as error:  # the claim ends by itself
            log.error("an Idempotency-Key is not kept: %s", error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._idempotency_store.put(
                    self.owner, self.name, replace(self.claim, until=time.time() + LEASE_S)
                )
            except StoreUnavailable as error:
                log.warning("an Idempotency-Key cannot be held on to: %s", error)

    async def _stop_renewing(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})


class _AnsweredOnce(Response):
    """Sends an answer and keeps it: first, so that it is there when its sending fails; streams as they go."""

    def __init__(self, answer: Response, turn: Turn, work: AsyncExitStack) -> None:
        super().__init__()
        self._answer = answer
        self._turn = turn
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._work:
            if isinstance(self._answer, EventStream):
                recording = _Recording(send)
                with recording.file:
                    await self._answer(scope, receive, recording)
                    if self._answer.is_whole and recording.is_whole:
                        await self._turn.keep(recording.file, recording.headers)
                return
            recording = _Recording()
            await self._answer(scope, _never, recording)
            await self._turn.keep(recording.file, recording.headers)
            await _file_answer(recording.file, recording.headers, ExitStack())(scope, receive, send)


class _Recording:
    """Takes what an answer sends, and passes it on, where there is somebody to pass it on to."""

    def __init__(self, send: Send | None = None) -> None:
        self.file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=BYTES_IN_MEMORY))  # noqa: SIM115
        self.headers: dict[str, str] = {}
        self.is_whole = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.file.write(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
        if self._send is not None:
            await self._send(message)


async def _never() -> Message:
    """Nothing is heard of the client while the answer is not sent yet."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
