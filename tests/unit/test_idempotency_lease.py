"""The lease on an Idempotency-Key: each state of a claim, and each end of a request that has acquired it."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.errors import IdempotencyMismatch
from serve_app.ingress.idempotency.lease import IdempotencyLease
from serve_app.jobs.idempotency_store import Claim, ClaimState, IdempotencyStore
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore

OWNER, KEY = "owner", "key"
LEASE_S = 0.3


class Jobs:
    """Claims keys as the Jobs deployment does, after `delay_s`."""

    def __init__(self, store: IdempotencyStore) -> None:
        self.store = store
        self.delay_s = 0.0
        self.submitted: set[str] = set()

    async def is_submitted(self, job_id: str) -> bool:
        return job_id in self.submitted

    async def claim(self, owner: str, name: str, claim: Claim) -> Claim:
        await asyncio.sleep(self.delay_s)
        earlier = await self.store.get(owner, name)
        if earlier is None:
            await self.store.put(owner, name, claim)
        return earlier or claim


@pytest.fixture
def store(tmp_path: Path) -> IdempotencyStore:
    return IdempotencyStore(FolderStore(FolderStoreSettings(path=str(tmp_path))))


@pytest.fixture
def jobs(store: IdempotencyStore) -> Jobs:
    return Jobs(store)


def lease(jobs: Jobs, request_id: str, digest: str = "same") -> IdempotencyLease:
    context: Any = SimpleNamespace(jobs=jobs, idempotency_store=jobs.store, job_store=jobs)
    return IdempotencyLease(context, OWNER, KEY, digest, request_id=request_id, lease_s=LEASE_S)


async def state(store: IdempotencyStore) -> ClaimState | None:
    claim = await store.get(OWNER, KEY)
    return claim.state if claim is not None else None


@pytest.mark.parametrize(
    ("end", "after"),
    [("response", ClaimState.RESPONSE), ("job", ClaimState.JOB), ("failure", None), ("death", None)],
)
async def test_the_state_of_a_claim_follows_the_first_request(
    store: IdempotencyStore, jobs: Jobs, end: str, after: ClaimState | None
) -> None:
    assert await state(store) is None
    first = lease(jobs, "first")
    assert await first.acquire() is None
    assert await state(store) is ClaimState.IN_PROGRESS
    async with lease(jobs, "second") as second:
        claim = await second.acquire()
        assert claim is not None and (claim.id, claim.state) == ("first", ClaimState.IN_PROGRESS)
    assert await state(store) is ClaimState.IN_PROGRESS, "a request without the lease does not release it"

    match end:
        case "response":
            async with first:
                await first.commit_with_response(io.BytesIO(b"text"), {"content-type": "text/plain"})
            with await store.open_response(OWNER, KEY) as answer:
                assert answer.read() == b"text"
        case "job":
            async with first:
                await first.commit()
        case "failure":
            with pytest.raises(ValueError, match="unreadable"):
                async with first:
                    raise ValueError("unreadable")
        case "death":
            await first._stop_renewing()
            await asyncio.sleep(LEASE_S + 0.1)
    assert await state(store) is after
    async with lease(jobs, "third") as third:
        claim = await third.acquire()
        assert (claim.id if claim is not None else None) == (None if after is None else "first")


async def test_a_key_whose_client_left_once_its_job_was_stored_keeps_this_job(
    store: IdempotencyStore, jobs: Jobs
) -> None:
    with pytest.raises(asyncio.CancelledError):
        async with lease(jobs, "first") as first:
            assert await first.acquire() is None
            jobs.submitted.add("first")
            raise asyncio.CancelledError
    assert await state(store) is ClaimState.JOB
    async with lease(jobs, "second") as second:
        claim = await second.acquire()
        assert claim is not None and claim.id == "first"


@pytest.mark.parametrize("committed", [False, True])
async def test_another_request_with_the_key_is_refused_in_every_state(
    store: IdempotencyStore, jobs: Jobs, committed: bool
) -> None:
    async with lease(jobs, "first") as first:
        assert await first.acquire() is None
        if committed:
            await first.commit()
        with pytest.raises(IdempotencyMismatch):
            async with lease(jobs, "second", digest="different") as second:
                await second.acquire()
        claim = await store.get(OWNER, KEY)
        assert claim is not None and claim.id == "first"


async def test_a_lease_is_renewed_while_the_request_is_answered(store: IdempotencyStore, jobs: Jobs) -> None:
    async with lease(jobs, "first") as first:
        assert await first.acquire() is None
        await asyncio.sleep(3 * LEASE_S)
        assert await state(store) is ClaimState.IN_PROGRESS
    assert await state(store) is None


async def test_a_request_cancelled_twice_while_it_acquires_the_key_releases_it(
    store: IdempotencyStore, jobs: Jobs
) -> None:
    jobs.delay_s = 0.15
    made: list[IdempotencyLease] = []

    async def request() -> None:
        async with lease(jobs, "first") as first:
            made.append(first)
            await first.acquire()

    running = asyncio.create_task(request())
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    exiting = made[0]._exiting
    assert exiting is not None and not exiting.done(), "the claim may still be stored"
    await exiting
    assert await state(store) is None


async def test_a_request_cancelled_while_it_tries_again_releases_the_key(store: IdempotencyStore, jobs: Jobs) -> None:
    async with lease(jobs, "first") as first, lease(jobs, "second") as second:
        assert await first.acquire() is None
        assert await second.acquire() is not None
        await store.release(OWNER, KEY)
        jobs.delay_s = 0.05
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second.acquire(), 0.01)
    assert await state(store) is None


async def test_a_request_whose_lease_has_ended_does_not_release_the_key_of_its_successor(
    store: IdempotencyStore, jobs: Jobs
) -> None:
    async with lease(jobs, "first") as first:
        assert await first.acquire() is None
        await first._stop_renewing()
        await asyncio.sleep(LEASE_S + 0.1)
        second = lease(jobs, "second")
        assert await second.acquire() is None
        await second.commit()
    claim = await store.get(OWNER, KEY)
    assert claim is not None and (claim.id, claim.state) == ("second", ClaimState.JOB)
