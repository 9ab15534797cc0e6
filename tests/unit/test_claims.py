"""Idempotency keys: who is the first, for how long, and what is swept."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.jobs.idempotency_store import CLAIM_S, Claim, IdempotencyStore
from serve_app.settings import FolderStoreSettings
from serve_app.storage.day_index import DayIndex
from serve_app.storage.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(FolderStoreSettings(path=str(tmp_path)))


async def test_a_claim_holds_for_a_day_and_one_of_a_dead_request_until_its_lease_ends(store: FolderStore) -> None:
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


async def test_answers_go_with_their_claims_but_not_with_an_earlier_one_of_the_same_key(store: FolderStore) -> None:
    claims, now = IdempotencyStore(store), datetime.now(UTC)
    for name in ("old", "again"):
        await claims.put("a", name, Claim("1", "d", now.timestamp() - 2 * CLAIM_S))
        await claims.put_answer("a", name, io.BytesIO(b"answer"))
    await claims.put("a", "again", Claim("2", "d", now.timestamp()))
    await claims.sweep(now + timedelta(seconds=1))
    with pytest.raises(KeyError):
        await claims.answer("a", "old")
    with await claims.answer("a", "again") as answer:
        assert answer.read() == b"answer"
    assert await claims.get("a", "again") is not None
    await claims.sweep(now + timedelta(days=2))
    assert await store.keys_below("jobs") == []


async def test_days_are_listed_whole_once_and_then_only_today(store: FolderStore) -> None:
    index, now = DayIndex(store, "x"), datetime(2026, 3, 31, 12, tzinfo=UTC)
    for days, name in ((-40, "long ago"), (0, "today"), (1, "tomorrow")):
        await index.add(now + timedelta(days=days), name)
    assert [each async for each in index.due(now)] == [("20260219", "long ago"), ("20260331", "today")]
    await index.remove("20260219", "long ago")
    await index.add(now - timedelta(days=2), "late")
    assert [name async for _, name in index.due(now)] == ["today"]
    assert [name async for _, name in index.due(now + timedelta(days=1))] == ["late", "today", "tomorrow"]
