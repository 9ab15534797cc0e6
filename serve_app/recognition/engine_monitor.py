"""Polls the engines in the background, for /health and for the windows of documents.

/health itself calls no engine and no store, so it responds even while they are busy or away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.recognition.engine_state import EnginePhase, EngineState
from serve_app.runtime.broadcast import responses_in_time

log = logging.getLogger("ray.serve.monitor")

POLL_S = 1.0
READY_POLL_S = 2.0
POLL_TIMEOUT_S = 5.0
POLLED_PER_S = 200
"""Replicas that a monitor asks in a second, at most, so that a thousand of them cost it no more than a tenth of a core."""

NO_REPLICA = "no replica is running yet: either it is still loading, or the cluster has no room for it"
AT_ZERO = "no replica is running: the next page starts one, if the cluster has room for it"


class EngineMonitor:
    """Polls all replicas of one recognizer for their state. That wakes no deployment that is scaled to zero.

    `from_zero`: the recognizer has no replica while there are no pages.
    """

    def __init__(
        self, recognizer: DeploymentHandle[Any], *, initial_phase: EnginePhase, from_zero: bool = False
    ) -> None:
        self._recognizer = recognizer
        self._from_zero = from_zero
        self._state = EngineState(replica="", phase=initial_phase)
        self._initial_phase = initial_phase
        self._replicas: int | None = None  # unknown until Serve has reported it
        self.page_s = 0.0
        """Seconds of work that a page takes a replica, on average over the replicas; 0 while unknown."""
        self._settled = False
        self._has_been_ready = False
        self._seen_at = time.monotonic()

    @property
    def replicas(self) -> int:
        """The number of replicas that run now; 0 if it is not known yet."""
        return self._replicas or 0

    @property
    def has_replicas(self) -> bool:
        """Whether a replica can take a page now. False, for example, if the cluster has no room for one."""
        return self._replicas != 0

    @property
    def lost_replicas(self) -> bool:
        """Whether there were replicas and all of them are gone, although there should be some."""
        return not self.has_replicas and not self._from_zero and self._state.replica != ""

    @property
    def state(self) -> EngineState:
        """The best state of the replicas, since one ready replica is enough; the last known one if there are none."""
        if not self.has_replicas and self._state.phase is not EnginePhase.FAILED:
            if self._from_zero:
                return replace(self._state, phase=EnginePhase.NOT_INITIALIZED, reason=AT_ZERO)
            return replace(self._state, phase=self._initial_phase, reason=NO_REPLICA)
        return self._state

    @property
    def is_ready(self) -> bool:
        return self.state.phase is EnginePhase.INITIALIZED

    @property
    def takes_pages(self) -> bool:
        """Whether the engine has been ready since this monitor started, or starts with the first page.

        An engine that is away later does not count: pages wait for it, or its fallback reads them.
        """
        return self._has_been_ready or self._from_zero or self._initial_phase is EnginePhase.NOT_INITIALIZED

    @property
    def age_s(self) -> float:
        """Seconds since a replica has responded, or Serve has said that there is none."""
        return time.monotonic() - self._seen_at

    @property
    def is_down(self) -> bool:
        """Whether pages for this engine cannot be read, although they should be: not while its first page starts it."""
        is_loading = self.state.phase is EnginePhase.INITIALIZING and not self._from_zero
        return self.lost_replicas or is_loading or self.state.phase is EnginePhase.FAILED

    def report(self, states: Sequence[EngineState], replicas: int) -> None:
        """Record the states of the replicas that have responded, out of this many."""
        self._replicas = replicas
        self._settled = 0 < len(states) == replicas and all(_rank(state) == (0, False) for state in states)
        self._state = min(states, key=_rank, default=self._state)
        if measured := [state.page_s for state in states if state.page_s]:
            self.page_s = mean(measured)
        self._has_been_ready = self._has_been_ready or self.is_ready
        if states or not replicas:
            self._seen_at = time.monotonic()

    async def run(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(max(READY_POLL_S if self._settled else POLL_S, self.replicas / POLLED_PER_S))

    async def poll(self) -> None:
        """Ask all replicas, and tell them how many they are."""
        try:
            answers = await responses_in_time(
                self._recognizer.broadcast("state", self._replicas), timeout_s=POLL_TIMEOUT_S
            )
        except DeploymentUnavailableError:  # Serve's way to say that there are none
            self.report([], 0)
        except TimeoutError:
            # Serve does not know the deployment yet, or is too busy.
            replicas = await asyncio.to_thread(_running_replicas, self._recognizer)
            self._replicas = self._replicas if replicas is None else replicas
        except Exception as error:
            # The controller died during the poll; the next round polls again.
            log.debug("could not get the states of an engine: %s", type(error).__name__)
        else:
            self.report([answer for answer in answers if isinstance(answer, EngineState)], len(answers))


def _running_replicas(recognizer: DeploymentHandle[Any]) -> int | None:
    """Count the running replicas, as Serve's controller knows them; None if it does not respond."""
    deployment_id = recognizer.deployment_id
    try:
        application = serve.status().applications.get(deployment_id.app_name)
    except Exception as error:
        log.debug("could not get the status of an engine: %s", type(error).__name__)
        return None
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
