"""What /health tells: the last known state of engines and store, gathered in the background.

/health reads memory only, so it answers whatever an engine or the store is doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.recognition.deployment import EnginePhase, EngineState
from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.monitor")

POLL_S = 1.0
READY_POLL_S = 5.0
POLL_TIMEOUT_S = 5.0
# A replica that has not been heard of for this long is gone (a busy one answers within it).
FORGET_S = 30.0
STORE_POLL_S = 30.0


class EngineMonitor:
    """Asks the replicas of one recognizer for their state; Serve picks which one answers each time."""

    def __init__(self, recognizer: DeploymentHandle[Any], *, before_contact: EnginePhase) -> None:
        self._recognizer = recognizer
        self._before_contact = before_contact
        self._seen: dict[str, tuple[float, EngineState]] = {}
        self._last: EngineState | None = None

    @property
    def phase(self) -> EnginePhase:
        """The best phase of any replica: one that is ready serves everybody."""
        state = self._best()
        return state.phase if state else self._before_contact

    @property
    def version(self) -> str | None:
        state = self._best()
        return state.version if state else None

    @property
    def reason(self) -> str | None:
        state = self._best()
        return state.reason if state else None

    async def run(self) -> None:
        while True:
            try:
                state: EngineState = await asyncio.wait_for(self._recognizer.state.remote(), POLL_TIMEOUT_S)
            except TimeoutError:
                pass  # every replica is busy, or none has started yet: what is known stays
            except Exception as error:
                # A replica died with the question; the next round asks another one.
                log.debug("no engine state: %s", type(error).__name__)
            else:
                self._last = state
                self._seen[state.replica] = (time.monotonic(), state)
            await asyncio.sleep(READY_POLL_S if self.phase is EnginePhase.INITIALIZED else POLL_S)

    def _best(self) -> EngineState | None:
        now = time.monotonic()
        self._seen = {replica: (at, state) for replica, (at, state) in self._seen.items() if now - at < FORGET_S}
        states = [state for _, state in self._seen.values()]
        for phase in (EnginePhase.INITIALIZED, EnginePhase.INITIALIZING, EnginePhase.FAILED):
            for state in states:
                if state.phase is phase:
                    return state
        return states[0] if states else self._last


class StoreMonitor:
    """Whether the store takes writes, by a look every half minute and by what writes report."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.degraded = False

    def report(self, *, failed: bool) -> None:
        """A write's outcome. Only a change is logged."""
        if failed != self.degraded:
            self.degraded = failed
            if not failed:
                log.info("the store is back")

    async def run(self) -> None:
        while True:
            try:
                await self._store.check()
            except StoreUnavailable as error:
                if not self.degraded:
                    log.error("the store cannot be written to: %s", error)
                self.report(failed=True)
            else:
                self.report(failed=False)
            await asyncio.sleep(STORE_POLL_S)


def writable(folder: Path) -> bool:
    """Whether files may be made in the folder; it is created if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def first_of(monitors: Mapping[str, EngineMonitor]) -> EngineMonitor:
    """The monitor of the default engine: the first one configured."""
    return next(iter(monitors.values()))
