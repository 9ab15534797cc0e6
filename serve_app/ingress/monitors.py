"""What /health tells of engines: their last known state, gathered in the background.

/health asks no engine and no store, so it answers whatever they are doing.
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

log = logging.getLogger("ray.serve.monitor")

POLL_S = 1.0
READY_POLL_S = 5.0
POLL_TIMEOUT_S = 5.0
# What a replica said is believed for this long: it may be gone, and which one is asked is chance.
FORGET_S = 12.0


class EngineMonitor:
    """Asks the replicas of one recognizer for their state; Serve picks which one answers each time.

    What a replica said is believed for a while only: one that is gone cannot take it back.
    """

    def __init__(self, recognizer: DeploymentHandle[Any], *, before_contact: EnginePhase) -> None:
        self._recognizer = recognizer
        self._state = EngineState(replica="", phase=before_contact)
        self._seen: dict[str, tuple[float, EngineState]] = {}

    @property
    def state(self) -> EngineState:
        """The best state of the replicas heard of lately (one that is ready serves everybody), else the last one."""
        since = time.monotonic() - FORGET_S
        self._seen = {replica: (at, state) for replica, (at, state) in self._seen.items() if at > since}
        states = [state for _, state in self._seen.values()]
        return min(states, key=lambda state: _BEST_FIRST.index(state.phase), default=self._state)

    @property
    def is_ready(self) -> bool:
        return self.state.phase is EnginePhase.INITIALIZED

    def report(self, state: EngineState) -> None:
        """What a replica said of its engine."""
        self._state = state
        self._seen[state.replica] = (time.monotonic(), state)

    async def run(self) -> None:
        while True:
            try:
                self.report(await asyncio.wait_for(self._recognizer.state.remote(), POLL_TIMEOUT_S))
            except TimeoutError:
                pass  # every replica is busy, or none has started yet: what is known stays
            except Exception as error:
                # A replica died with the question; the next round asks another one.
                log.debug("no engine state: %s", type(error).__name__)
            settled = {state.phase for _, state in self._seen.values()} == {EnginePhase.INITIALIZED}
            await asyncio.sleep(READY_POLL_S if settled else POLL_S)


_BEST_FIRST = (EnginePhase.INITIALIZED, EnginePhase.INITIALIZING, EnginePhase.NOT_INITIALIZED, EnginePhase.FAILED)


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
