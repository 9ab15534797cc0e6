"""What /health believes of engines and of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.recognition import engine_monitor
from serve_app.recognition.deployment import EnginePhase, EngineState
from serve_app.recognition.engine_monitor import EngineMonitor
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import PROBE, PROBE_KEY, StoreMonitor
from serve_app.storage.store import StoreUnavailable


def monitor() -> EngineMonitor:
    no_handle: Any = None  # these tests say what replicas say; nothing is asked
    return EngineMonitor(no_handle, initial_phase=EnginePhase.INITIALIZING)


def said(replica: str, phase: EnginePhase, reason: str | None = None) -> EngineState:
    return EngineState(replica=replica, phase=phase, reason=reason)


def phase_and_reason(engines: EngineMonitor) -> tuple[str, str | None]:
    return str(engines.state.phase), engines.state.reason


def is_degraded(looks: StoreMonitor) -> bool:
    return looks.degraded


def test_before_any_replica_has_answered_the_phase_is_what_the_settings_say() -> None:
    assert monitor().state.phase is EnginePhase.INITIALIZING


def test_one_replica_that_is_ready_serves_everybody() -> None:
    engines = monitor()
    engines.report(said("a", EnginePhase.INITIALIZED))
    engines.report(said("b", EnginePhase.FAILED, "out of memory"))
    assert engines.is_ready


def test_a_replica_that_is_gone_does_not_hide_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = monitor()
    now = 1000.0
    monkeypatch.setattr("serve_app.recognition.engine_monitor.time.monotonic", lambda: now)
    engines.report(said("old", EnginePhase.INITIALIZED))
    now += engine_monitor.STATE_EXPIRES_S - 1
    engines.report(said("new", EnginePhase.FAILED, "no language data"))
    assert phase_and_reason(engines) == ("initialized", None), "the old one may still be there"
    now += 2
    assert phase_and_reason(engines) == ("failed", "no language data")
    now += engine_monitor.STATE_EXPIRES_S + 1
    assert phase_and_reason(engines) == ("failed", "no language data"), (
        "with nobody heard of lately, the last word stands"
    )


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(FolderStoreSettings(path=str(tmp_path / "output")))


async def test_a_store_that_cannot_be_written_to_is_noticed_without_a_write(tmp_path: Path, store: FolderStore) -> None:
    looks = StoreMonitor(store)
    await looks.check()
    assert not looks.degraded
    broken = FolderStore(FolderStoreSettings(path=str(tmp_path / "file" / "output")))
    (tmp_path / "file").write_text("no folder")
    looks = StoreMonitor(broken)
    await looks.check()
    assert looks.degraded


async def test_after_a_failed_write_only_a_write_proves_that_the_store_is_back(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = StoreMonitor(store)

    async def refused(key: str, data: bytes, content_type: str) -> None:
        raise StoreUnavailable("403")

    monkeypatch.setattr(store, "put", refused)
    looks.report(StoreUnavailable("403"))
    await looks.check()  # a read-only look would find nothing wrong
    assert is_degraded(looks)
    monkeypatch.undo()
    await looks.check()
    assert not is_degraded(looks)
    assert await store.get(PROBE_KEY) == PROBE


async def test_an_unexpected_error_does_not_freeze_health_at_fine(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def surprise() -> None:
        raise OSError("something else")

    monkeypatch.setattr(store, "check", surprise)
    looks = StoreMonitor(store)
    await looks.check()
    assert looks.degraded
