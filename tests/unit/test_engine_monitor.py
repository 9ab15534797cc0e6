"""What /health believes of engines and of the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from serve_app.metrics.catalogue import STORE_ERRORS
from serve_app.recognition import engine_monitor
from serve_app.recognition.engine_monitor import AT_ZERO, NO_REPLICA, EngineMonitor
from serve_app.recognition.engine_state import EnginePhase, EngineState
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import PROBE, PROBE_KEY, StoreMonitor
from serve_app.storage.store import StoreUnavailable
from tests.support.broadcasts import SILENCE, Broadcasts
from tests.support.metrics import grows

NOBODY = DeploymentUnavailableError(DeploymentID("x"))


def said(replica: str, phase: EnginePhase, reason: str | None = None) -> EngineState:
    return EngineState(replica=replica, phase=phase, reason=reason)


READY, FAILED = said("a", EnginePhase.INITIALIZED), said("b", EnginePhase.FAILED, "out of memory")


def monitor(recognizer: Broadcasts, *, from_zero: bool = False) -> EngineMonitor:
    handle: Any = recognizer
    return EngineMonitor(handle, initial_phase=EnginePhase.INITIALIZING, from_zero=from_zero)


def phase_and_reason(engines: EngineMonitor) -> tuple[str, str | None]:
    return str(engines.state.phase), engines.state.reason


def is_down(engines: EngineMonitor) -> bool:
    return engines.is_down


def is_degraded(looks: StoreMonitor) -> bool:
    return looks.degraded


def test_before_any_replica_has_answered_the_phase_is_what_the_settings_say() -> None:
    engines = monitor(Broadcasts())
    assert engines.state.phase is EnginePhase.INITIALIZING
    assert engines.has_replicas and engines.replicas == 0 and not engines.lost_replicas


async def test_one_replica_that_is_ready_serves_everybody() -> None:
    engines = monitor(Broadcasts(FAILED, READY))
    await engines.poll()
    assert engines.is_ready and engines.replicas == 2


async def test_the_time_of_a_page_is_the_mean_of_the_replicas_that_know_it() -> None:
    recognizer = Broadcasts(READY, replace(READY, page_s=1.0), replace(READY, page_s=2.0))
    engines = monitor(recognizer)
    assert engines.page_s == 0
    await engines.poll()
    assert engines.page_s == 1.5
    engines.report([READY], 1)
    assert engines.page_s == 1.5, "a new replica does not know it yet"


async def test_an_engine_that_is_at_zero_because_there_are_no_pages_has_lost_nothing() -> None:
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer, from_zero=True)
    await engines.poll()
    assert phase_and_reason(engines) == ("initialized", None)
    recognizer.error = NOBODY
    await engines.poll()
    assert phase_and_reason(engines) == ("not_initialized", AT_ZERO)
    assert not engines.has_replicas and not engines.lost_replicas
    assert not engines.is_down


async def test_a_replica_that_is_gone_does_not_hide_one_that_failed() -> None:
    recognizer = Broadcasts(READY, FAILED)
    engines = monitor(recognizer)
    await engines.poll()
    assert phase_and_reason(engines) == ("initialized", None)
    recognizer.outcomes = [ActorDiedError(), FAILED]
    await engines.poll()
    assert phase_and_reason(engines) == ("failed", "out of memory")


async def test_without_replicas_the_phase_is_what_the_settings_say_until_one_is_back() -> None:
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer)
    await engines.poll()
    recognizer.error = NOBODY
    await engines.poll()
    assert engines.lost_replicas and not engines.is_ready
    assert is_down(engines)
    assert phase_and_reason(engines) == ("initializing", NO_REPLICA)
    recognizer.error = None
    await engines.poll()
    assert phase_and_reason(engines) == ("initialized", None) and engines.replicas == 1
    assert not is_down(engines)


async def test_an_engine_that_failed_stays_failed_while_its_replicas_are_replaced() -> None:
    recognizer = Broadcasts(FAILED)
    engines = monitor(recognizer)
    await engines.poll()
    recognizer.error = NOBODY
    await engines.poll()
    assert phase_and_reason(engines) == ("failed", "out of memory")


async def test_while_serve_is_too_busy_to_call_them_the_controller_counts_replicas_and_states_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer)
    await engines.poll()
    counts = iter([5, None, 0])
    monkeypatch.setattr(engine_monitor, "_running_replicas", lambda handle: next(counts))
    recognizer.error = TimeoutError()
    await engines.poll()
    assert engines.is_ready and engines.replicas == 5
    await engines.poll()
    assert engines.is_ready and engines.replicas == 5, "the controller is away"
    await engines.poll()
    assert not engines.has_replicas


async def test_a_replica_that_hangs_does_not_hide_what_the_others_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_monitor, "POLL_TIMEOUT_S", 0.1)
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer)
    await engines.poll()
    recognizer.outcomes = [SILENCE, FAILED, FAILED]
    await engines.poll()
    assert phase_and_reason(engines) == ("failed", "out of memory") and engines.replicas == 3
    recognizer.outcomes = [SILENCE]
    await engines.poll()
    assert phase_and_reason(engines) == ("failed", "out of memory") and engines.replicas == 1


async def test_replicas_are_told_how_many_they_are() -> None:
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer)
    await engines.poll()
    recognizer.outcomes = [READY, FAILED, READY]
    await engines.poll()
    await engines.poll()
    assert recognizer.calls == [("state", None), ("state", 1), ("state", 3)]


async def test_a_failed_poll_changes_nothing() -> None:
    recognizer = Broadcasts(READY)
    engines = monitor(recognizer)
    await engines.poll()
    recognizer.error = ActorDiedError()
    await engines.poll()
    assert engines.is_ready and engines.replicas == 1


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
    with grows(STORE_ERRORS, operation="check"):
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


async def test_a_failed_read_has_the_store_checked_and_is_no_failure_of_it(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the fault of one object, such as a file that must not be read."""
    looks = StoreMonitor(store)
    checked = asyncio.Event()

    async def check() -> None:
        await FolderStore.check(store)
        checked.set()

    monkeypatch.setattr(store, "check", check)
    running = asyncio.create_task(looks.run())
    async with asyncio.timeout(10):
        await checked.wait()
        checked.clear()
        looks.suspect()
        await checked.wait()
    assert not looks.degraded
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_unexpected_error_does_not_freeze_health_at_fine(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def surprise() -> None:
        raise OSError("something else")

    monkeypatch.setattr(store, "check", surprise)
    looks = StoreMonitor(store)
    await looks.check()
    assert looks.degraded
