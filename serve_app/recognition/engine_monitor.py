"""Polls the engines in the background, for /health.

/health itself calls no engine and no store, so it responds even while they are busy or away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.recognition.deployment import EnginePhase, EngineState

log = logging.getLogger("ray.serve.monitor")

POLL_S = 1.0
READY_POLL_S = 5.0
POLL_TIMEOUT_S = 5.0
STATE_EXPIRES_S = 12.0
"""Seconds after which a replica's state expires. Serve picks the replica of each poll, so the only sign that a replica is
gone is that its state is not renewed."""

NO_REPLICA = "no replica is running yet: either it is still loading, or the cluster has no room for it"


class EngineMonitor:
    """Polls the replicas of one recognizer for their state. Serve picks the replica of each poll.

    A replica's state expires after STATE_EXPIRES_S.
    """

    def __init__(self, recognizer: DeploymentHandle[Any], *, initial_phase: EnginePhase) -> None:
        self._recognizer = recognizer
        self._state = EngineState(replica="", phase=initial_phase)
        self._seen: dict[str, tuple[float, EngineState]] = {}
        self._initial_phase = initial_phase
        self._has_replicas = True  # assumed until Serve reports none

    @property
    def has_replicas(self) -> bool:
        """Whether a replica can take a page now. False, for example, if the cluster has no room for one."""
        return self._has_replicas

    @property
    def lost_replicas(self) -> bool:
        """Whether there were replicas and all of them are gone."""
        return not self._has_replicas and self._state.replica != ""

    @property
    def state(self) -> EngineState:
        """The best state that has not expired, since one ready replica is enough; the last known state if all have expired."""
        since = time.monotonic() - STATE_EXPIRES_S
        self._seen = {replica: (at, state) for replica, (at, state) in self._seen.items() if at > since}
        states = [state for _, state in self._seen.values()]
        known = min(states, key=_rank, default=self._state)
        if not self._has_replicas and known.phase is not EnginePhase.FAILED:
            return replace(known, phase=self._initial_phase, reason=NO_REPLICA)
        return known

    @property
    def is_ready(self) -> bool:
        return self.state.phase is EnginePhase.INITIALIZED

    def report(self, state: EngineState) -> None:
        """Record a replica's state."""
        self._state = state
        self._has_replicas = True
        self._seen[state.replica] = (time.monotonic(), state)

    async def run(self) -> None:
        while True:
            try:
                await self._poll()
            except Exception as error:
                # The replica or the controller died during the poll; the next round polls again.
                log.debug("could not get the engine's state: %s", type(error).__name__)
            settled = bool(self._seen) and all(_rank(state) == (0, False) for _, state in self._seen.values())
            await asyncio.sleep(READY_POLL_S if settled else POLL_S)

    async def _poll(self) -> None:
        try:
            self.report(await asyncio.wait_for(self._recognizer.state.remote(), POLL_TIMEOUT_S))
        except TimeoutError:
            # Either every replica is busy, and the known state stays, or there is none.
            self._has_replicas = await asyncio.to_thread(_running_replicas, self._recognizer) > 0


def _running_replicas(recognizer: DeploymentHandle[Any]) -> int:
    """Count the running replicas, as Serve's controller knows them. Called only if none responds."""
    deployment_id = recognizer.deployment_id
    application = serve.status().applications.get(deployment_id.app_name)
    deployment = application.deployments.get(deployment_id.name) if application is not None else None
    if deployment is None:
        return 0
    return sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")


_BEST_FIRST = (EnginePhase.INITIALIZED, EnginePhase.INITIALIZING, EnginePhase.NOT_INITIALIZED, EnginePhase.FAILED)


def _rank(state: EngineState) -> tuple[int, bool]:
    return _BEST_FIRST.index(state.phase), state.vlm_server is not None and not state.vlm_server.available


def default_monitor(monitors: Mapping[str, EngineMonitor]) -> EngineMonitor:
    """Return the monitor of the default engine, which is the first one configured."""
    return next(iter(monitors.values()))
