"""Idempotency claims: their states, how long they hold, and what a sweep deletes."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.idempotency_store import CLAIM_S, Claim, ClaimState, IdempotencyStore
from serve_app.settings import FolderStoreSettings
from serve_app.storage.day_index import DayIndex
from serve_app.storage.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(FolderStoreSettings(path=str(tmp_path)))


def test_the_state_of_a_claim_follows_from_its_lease_and_its_headers() -> None:
    claim = Claim("id", "digest", 0)
    assert replace(claim, until=1).state is ClaimState.IN_PROGRESS
    assert replace(claim, headers={}).state is ClaimState.RESPONSE
    assert claim.state is ClaimState.JOB


async def test_a_claim_written_by_an_earlier_version_is_read(store: FolderStore) -> None:
    claims = IdempotencyStore(store)
    at = time.time()
    await claims.put("a", "key", Claim("id", "digest", at, headers={"etag": "1"}))
    (key,) = await store.keys_below("jobs/claims")
    earlier: dict[str, Any] = {"id": "id", "digest": "digest", "at": at, "until": None, "headers": {"etag": "1"}}
    assert json.loads(await store.get(key)) == earlier, "replicas of both versions run during an upgrade"
    assert await claims.get("a", "key") == Claim(**earlier)


async def test_a_claim_holds_for_a_day_or_until_its_lease_ends(store: FolderStore) -> None:
    claims, now = IdempotencyStore(store), time.time()
    assert await claims.get("a", "ключ/1") is None
    claim = Claim("id", "digest", now)
    await claims.put("a", "ключ/1", claim)
    assert await claims.get("a", "ключ/1") == claim
    assert await claims.get("b", "ключ/1") is None and await claims.get("a", "ключ") is None
    await claims.put("a", "ключ/1", replace(claim, at=now - CLAIM_S))
    assert await claims.get("a", "ключ/1") is None
    await claims.put("a", "ключ/1", replace(claim, until=now + 60))
    assert await claims.get("a", "ключ/1") is not None
    await claims.put("a", "ключ/1", replace(claim, until=now - 1))
    assert await claims.get("a", "ключ/1") is None


async def test_a_sweep_deletes_answers_with_their_claims_unless_the_key_was_used_again(store: FolderStore) -> None:
    claims, now = IdempotencyStore(store), datetime.now(UTC)
    for name in ("old", "again"):
        await claims.put("a", name, Claim("1", "d", now.timestamp() - 2 * CLAIM_S))
        await claims.put_response("a", name, io.BytesIO(b"answer"))
    await claims.put("a", "again", Claim("2", "d", now.timestamp()))
    await claims.sweep(now + timedelta(seconds=1))
    with pytest.raises(KeyError):
        await claims.open_response("a", "old")
    with await claims.open_response("a", "again") as answer:
        assert answer.read() == b"answer"
    assert await claims.get("a", "again") is not None
    await claims.sweep(now + timedelta(days=2))
    assert await store.keys_below("jobs") == []


async def test_all_days_are_listed_once_and_afterwards_only_today(store: FolderStore) -> None:
    index, now = DayIndex(store, "x"), datetime(2026, 3, 31, 12, tzinfo=UTC)
    for days, name in ((-40, "long ago"), (0, "today"), (1, "tomorrow")):
        await index.add(now + timedelta(days=days), name)
    assert [each async for each in index.due(now)] == [("20260219", "long ago"), ("20260331", "today")]
    await index.remove("20260219", "long ago")
    await index.add(now - timedelta(days=2), "late")
    assert [name async for _, name in index.due(now)] == ["today"]
    assert [name async for _, name in index.due(now + timedelta(days=1))] == ["late", "today", "tomorrow"]
