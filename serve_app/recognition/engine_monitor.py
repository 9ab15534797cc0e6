"""What /health tells of engines: their last known state, gathered in the background.

/health asks no engine and no store, so it answers whatever they are doing.
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
# What a replica said is believed for this long: it may be gone, and which one is asked is chance.
FORGET_S = 12.0
NO_REPLICA = "no replica is running yet: it is being loaded, or the cluster has no room for it"


class EngineMonitor:
    """Asks the replicas of one recognizer for their state; Serve picks which one answers each time.

    What a replica said is believed for a while only: one that is gone cannot take it back.
    """

    def __init__(self, recognizer: DeploymentHandle[Any], *, before_contact: EnginePhase) -> None:
        self._recognizer = recognizer
        self._state = EngineState(replica="", phase=before_contact)
        self._seen: dict[str, tuple[float, EngineState]] = {}
        self._before_contact = before_contact
        self._has_replicas = True  # until Serve says otherwise

    @property
    def has_replicas(self) -> bool:
        """Whether a page that is sent now has a replica to go to; not so where a cluster has no room for one."""
        return self._has_replicas

    @property
    def lost_replicas(self) -> bool:
        """Whether there were replicas, and are none any more."""
        return not self._has_replicas and self._state.replica != ""

    @property
    def state(self) -> EngineState:
        """The best state of the replicas heard of lately (one that is ready serves everybody), else the last one."""
        since = time.monotonic() - FORGET_S
        self._seen = {replica: (at, state) for replica, (at, state) in self._seen.items() if at > since}
        states = [state for _, state in self._seen.values()]
        known = min(states, key=_rank, default=self._state)
        if not self._has_replicas and known.phase is not EnginePhase.FAILED:
            return replace(known, phase=self._before_contact, reason=NO_REPLICA)
        return known

    @property
    def is_ready(self) -> bool:
        return self.state.phase is EnginePhase.INITIALIZED

    def report(self, state: EngineState) -> None:
        """What a replica said of its engine."""
        self._state = state
        self._has_replicas = True
        self._seen[state.replica] = (time.monotonic(), state)

    async def run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                # A replica died with the question, or the controller did; the next round asks again.
                log.debug("no engine state: %s", type(error).__name__)
            settled = bool(self._seen) and all(_rank(state) == (0, False) for _, state in self._seen.values())
            await asyncio.sleep(READY_POLL_S if settled else POLL_S)

    async def _look(self) -> None:
        try:
            self.report(await asyncio.wait_for(self._recognizer.state.remote(), POLL_TIMEOUT_S))
        except TimeoutError:
            # Every replica is busy, and what is known stays; or there is none.
            self._has_replicas = await asyncio.to_thread(_running_replicas, self._recognizer) > 0


def _running_replicas(recognizer: DeploymentHandle[Any]) -> int:
    """How many replicas Serve's controller has running; asked only when they are silent."""
    place = recognizer.deployment_id
    application = serve.status().applications.get(place.app_name)
    deployment = application.deployments.get(place.name) if application is not None else None
    if deployment is None:
        return 0
    return sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")


_BEST_FIRST = (EnginePhase.INITIALIZED, EnginePhase.INITIALIZING, EnginePhase.NOT_INITIALIZED, EnginePhase.FAILED)


def _rank(state: EngineState) -> tuple[int, bool]:
    return _BEST_FIRST.index(state.phase), state.vlm_server is not None and not state.vlm_server.available


def first_of(monitors: Mapping[str, EngineMonitor]) -> EngineMonitor:
    """The monitor of the default engine: the first one configured."""
    return next(iter(monitors.values()))
