"""Idempotency claims: which request came first with an Idempotency-Key, and its response or job."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import BinaryIO

from serve_app.storage import Store
from serve_app.storage.day_index import DayIndex

CLAIM_S = 86_400
"""How long a claim is valid: later requests with its key get the response or the job of the first one."""

LEASE_S = 15.0
"""How long a request counts as alive after it last renewed its claim."""


class ClaimState(StrEnum):
    IN_PROGRESS = "in_progress"
    """The first request is being processed, or its job is being stored. Its lease ends unless renewed."""
    RESPONSE = "response"
    """The response is stored, with its headers in the claim."""
    JOB = "job"
    """The claim's `id` is the id of a stored job."""


@dataclass(frozen=True)
class Claim:
    """The claim of the first request with a key. Times are Unix times.

    `id` is the job's id, or one of the request's own; `digest` distinguishes different requests with the same key.
    `until` is the end of the lease while the request is in progress; `headers` are those of the stored response.
    """

    id: str
    digest: str
    at: float
    until: float | None = None
    headers: dict[str, str] | None = None

    @property
    def state(self) -> ClaimState:
        if self.until is not None:
            return ClaimState.IN_PROGRESS
        return ClaimState.JOB if self.headers is None else ClaimState.RESPONSE

    def is_valid(self, now: float) -> bool:
        """Whether the claim is younger than a day and its lease, if it has one, has not ended."""
        return now < self.at + CLAIM_S and (self.until is None or now < self.until)


class IdempotencyStore:
    """Stores claims, and responses, by owner and by name (the value of the Idempotency-Key header).

    Methods raise StoreUnavailable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends = DayIndex(store, "jobs/claim-ends")
        self._swept: str | None = None

    async def get(self, owner: str, name: str) -> Claim | None:
        """Return the claim, or None if there is no valid one."""
        claim = await self.last(owner, name)
        return claim if claim is not None and claim.is_valid(time.time()) else None

    async def last(self, owner: str, name: str) -> Claim | None:
        """Return the last claim, valid or not."""
        return await self._read(_folder(owner, name))

    async def put(self, owner: str, name: str, claim: Claim) -> None:
        """Store a claim; replaces an earlier one."""
        folder = _folder(owner, name)
        await self._store.put(_claim_key(folder), json.dumps(asdict(claim)).encode(), "application/json")
        await self._ends.add(datetime.fromtimestamp(claim.at + CLAIM_S, UTC), folder)

    async def release(self, owner: str, name: str) -> None:
        """Delete the claim: the next request with this key is the first again."""
        await self._store.delete(_claim_key(_folder(owner, name)))

    async def put_response(self, owner: str, name: str, response: BinaryIO) -> None:
        await self._store.put(_response_key(_folder(owner, name)), response, "application/octet-stream")

    async def open_response(self, owner: str, name: str) -> BinaryIO:
        """Open the stored response; the caller closes it. Raises KeyError."""
        return await self._store.open(_response_key(_folder(owner, name)))

    async def sweep(self, now: datetime) -> None:
        """Delete claims that ended on an earlier day, and their responses, once a day."""
        if self._swept == (today := f"{now:%Y%m%d}"):
            return
        async for day, folder in self._ends.due(now):
            if day == today:
                continue
            claim = await self._read(folder)
            if claim is None or claim.at + CLAIM_S <= now.timestamp():  # else the key has been used again since
                await self._store.delete(_response_key(folder))
                await self._store.delete(_claim_key(folder))
            await self._ends.remove(day, folder)
        self._swept = today

    async def _read(self, folder: str) -> Claim | None:
        try:
            return Claim(**json.loads(await self._store.get(_claim_key(folder))))
        except KeyError:
            return None


def _folder(owner: str, name: str) -> str:
    """Hash both, as they may hold characters that store keys may not."""
    return hashlib.sha256(json.dumps([owner, name]).encode()).hexdigest()


def _claim_key(folder: str) -> str:
    return f"jobs/claims/{folder}/claim.json"


def _response_key(folder: str) -> str:
    return f"jobs/claims/{folder}/answer"
