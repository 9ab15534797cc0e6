"""The lease of a request on its Idempotency-Key: acquired before the request is processed, committed or released after.

How the claim that is stored for a key changes, and what a repeated request gets:

    stored claim       the first request then                          a request with the same digest gets
    none               acquires the key: IN_PROGRESS                   (it becomes the first)
    IN_PROGRESS        fails or its client leaves: none                409 request_running; POST /jobs waits for the job
    IN_PROGRESS        dies, so its lease ends: none                   409 until then
    IN_PROGRESS        ends so once its job is stored: JOB             409 until then
    IN_PROGRESS        commits with a response: RESPONSE               409 until then
    IN_PROGRESS        commits with a job: JOB                         409 until then
    RESPONSE, JOB      (it has ended)                                  the stored response, or the job, for a day

A request with another digest gets 422 idempotency_mismatch in every state but the first.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import logging
import time
from dataclasses import replace
from enum import Enum, auto
from types import TracebackType
from typing import BinaryIO

from fastapi import Request

from serve_app.errors import IdempotencyMismatch, InvalidField
from serve_app.ingress.context import Context, store_unavailable
from serve_app.ingress.requests.body import Body
from serve_app.jobs.idempotency_store import LEASE_S, Claim
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.ingress")

MAX_IDEMPOTENCY_KEY = 255
RETRY_AFTER_S = 5


def idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key, if it has one. Raises InvalidField."""
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise InvalidField("Idempotency-Key: may be sent only once.")
    key = keys[0] if keys else None
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidField(f"Idempotency-Key: must have 1 to {MAX_IDEMPOTENCY_KEY} characters.")
    return key


async def request_digest(request: Request, body: Body, *, accept: str = "") -> str:
    """Hash what makes a request a different one: its path, its fields, its file and the requested format."""
    return await asyncio.to_thread(_digest, request.url.path, accept, body)


def _digest(path: str, accept: str, body: Body) -> str:
    digest = hashlib.sha256(json.dumps([path, accept, body.fields], sort_keys=True).encode())
    digest.update(body.file or b"")
    return digest.hexdigest()


class _LeaseState(Enum):
    UNKNOWN = auto()
    """Not acquired yet, or the request was cancelled before the outcome was known."""
    ACQUIRED = auto()
    TAKEN = auto()
    """Another request has the key."""
    COMMITTED = auto()


class IdempotencyLease:
    """A request's lease on its Idempotency-Key. On exit of the context the key is released unless it was committed."""

    def __init__(
        self,
        context: Context,
        owner: str,
        name: str,
        digest: str,
        *,
        request_id: str,
        lease_s: float = LEASE_S,
    ) -> None:
        """`name` is the key. `request_id` identifies the request, or is the id of the job that it submits."""
        self.owner = owner
        self.name = name
        self._context = context
        self._store = context.idempotency_store
        self._lease_s = lease_s
        self._claim = Claim(request_id, digest, time.time(), until=time.time() + lease_s)
        self._state = _LeaseState.UNKNOWN
        self._acquiring: asyncio.Task[Claim] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._exiting: asyncio.Task[None] | None = None

    async def acquire(self) -> Claim | None:
        """Acquire the key. Returns None if this is the first request with it, else the first one's claim.

        Raises IdempotencyMismatch if the first one was a different request, and ServiceUnavailable.
        """
        # Serve cancels calls together with the request in whose context they were made. This call must end by itself:
        # after a cancelled one, it is unknown for a while whether the claim is stored.
        self._state = _LeaseState.UNKNOWN
        self._acquiring = asyncio.create_task(self._claim_key(), context=contextvars.Context())
        try:
            claim = await asyncio.shield(self._acquiring)
        except StoreUnavailable as error:
            raise store_unavailable(self._context, error) from None
        if claim.id == self._claim.id:
            self._state = _LeaseState.ACQUIRED
            self._renewing = asyncio.create_task(self._renew())
            return None
        self._state = _LeaseState.TAKEN
        if claim.digest != self._claim.digest:
            raise IdempotencyMismatch
        return claim

    async def _claim_key(self) -> Claim:
        return await self._context.jobs.claim(self.owner, self.name, self._renewed_claim())

    def _renewed_claim(self) -> Claim:
        return replace(self._claim, until=time.time() + self._lease_s)

    async def commit(self) -> None:
        """Record that the job is stored: requests that repeat this one get it."""
        await self._commit(replace(self._claim, until=None))

    async def commit_with_response(self, body: BinaryIO, headers: dict[str, str]) -> None:
        """Store the response for requests that repeat this one. If that fails, the key is released instead."""
        body.seek(0)
        try:
            await self._store.put_response(self.owner, self.name, body)
        except StoreUnavailable as error:
            log.error("the response to a request with an Idempotency-Key cannot be stored: %s", error)
            return
        await self._commit(replace(self._claim, until=None, headers=headers))

    async def _commit(self, claim: Claim) -> None:
        await self._stop_renewing()
        self._state = _LeaseState.COMMITTED
        try:
            await self._store.put(self.owner, self.name, claim)
        except StoreUnavailable as error:  # the lease ends by itself
            log.error("an Idempotency-Key cannot be committed: %s", error)

    async def __aenter__(self) -> IdempotencyLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A client that disconnects may cancel its request more than once.
        self._exiting = asyncio.create_task(self._release_unless_committed())
        await asyncio.shield(self._exiting)

    async def _release_unless_committed(self) -> None:
        await self._stop_renewing()
        if self._acquiring is not None:
            await asyncio.wait({self._acquiring})  # a request cancelled meanwhile may have acquired the key
        if self._state in (_LeaseState.TAKEN, _LeaseState.COMMITTED):
            return
        try:
            stored = await self._store.get(self.owner, self.name)
            if stored is None or stored.id != self._claim.id:
                return
            if await self._context.job_store.is_submitted(self._claim.id):  # its client left when the job was stored
                await self._store.put(self.owner, self.name, replace(self._claim, until=None))
            else:
                await self._store.release(self.owner, self.name)
        except StoreUnavailable as unavailable:  # the lease ends by itself
            log.warning("an Idempotency-Key cannot be released: %s", unavailable)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._store.put(self.owner, self.name, self._renewed_claim())
            except StoreUnavailable as error:
                log.warning("the lease on an Idempotency-Key cannot be renewed: %s", error)

    async def _stop_renewing(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
