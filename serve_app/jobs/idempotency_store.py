"""Idempotency keys: what the first request of each has made, for all that come after it."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from serve_app.storage import Store
from serve_app.storage.day_index import DayIndex

CLAIM_S = 86_400
"""How long a key stands for its first request."""

LEASE_S = 15.0
"""How long a request that is being answered counts as alive after it has last said so."""


@dataclass(frozen=True)
class Claim:
    """Of the first request with a key: `id` of the job that it made, or of itself; `digest` of what it asks for.

    Times are Unix times. `until`: a request that is being answered is dead by then, unless it renews its claim.
    `headers` are those of the answer that is kept.
    """

    id: str
    digest: str
    at: float
    until: float | None = None
    headers: dict[str, str] | None = None


class IdempotencyStore:
    """Keeps claims for a day; keys (`name`) are their owner's. Methods raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends = DayIndex(store, "jobs/claim-ends")

    async def get(self, owner: str, name: str) -> Claim | None:
        """The claim that holds now."""
        claim, now = await self._read(_folder(owner, name)), time.time()
        holds = claim is not None and now < claim.at + CLAIM_S and (claim.until is None or now < claim.until)
        return claim if holds else None

    async def put(self, owner: str, name: str, claim: Claim) -> None:
        """Keep a claim, in place of an earlier one."""
        folder = _folder(owner, name)
        await self._store.put(_claim_key(folder), json.dumps(asdict(claim)).encode(), "application/json")
        await self._ends.add(datetime.fromtimestamp(claim.at + CLAIM_S, UTC), folder)

    async def release(self, owner: str, name: str) -> None:
        """The next request with this key is the first one."""
        await self._store.delete(_claim_key(_folder(owner, name)))

    async def put_answer(self, owner: str, name: str, answer: BinaryIO) -> None:
        await self._store.put(_answer_key(_folder(owner, name)), answer, "application/octet-stream")

    async def answer(self, owner: str, name: str) -> BinaryIO:
        """The kept answer, for the caller to close. Raises KeyError."""
        return await self._store.open(_answer_key(_folder(owner, name)))

    async def sweep(self, now: datetime) -> None:
        """Delete those of days that are over."""
        async for day, folder in self._ends.due(now):
            if day == f"{now:%Y%m%d}":
                continue
            claim = await self._read(folder)
            if claim is None or claim.at + CLAIM_S <= now.timestamp():  # or the key was used again
                await self._store.delete(_answer_key(folder))
                await self._store.delete(_claim_key(folder))
            await self._ends.remove(day, folder)

    async def _read(self, folder: str) -> Claim | None:
        try:
            return Claim(**json.loads(await self._store.get(_claim_key(folder))))
        except KeyError:
            return None


def _folder(owner: str, name: str) -> str:
    """Names may hold what keys may not."""
    return hashlib.sha256(json.dumps([owner, name]).encode()).hexdigest()


def _claim_key(folder: str) -> str:
    return f"jobs/claims/{folder}/claim.json"


def _answer_key(folder: str) -> str:
    return f"jobs/claims/{folder}/answer"
