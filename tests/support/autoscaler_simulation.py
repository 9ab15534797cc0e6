"""Serve's own autoscaler of one deployment, with its delays, bounds and averages, on a clock and replicas that are simulated.

Replicas read pages one after another, as the engine does that they stand for. The autoscaler gets the reports that replicas
and callers send it in a real service.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)

from serve_app.app import _scaling
from serve_app.pipeline.window_limits import LEAST_PAGES
from serve_app.settings import ReplicaRange

TICK_S = 0.25
"""The simulation's step."""
REPORT_S = 1.0
"""How often a replica reports, as in the service."""


@dataclass
class Replica:
    """A replica that reads a page until `free_at`. `given_s` is the work that it was given so far.

    `waited_s` is the seconds for which pages have waited at it since its last report, in total.
    """

    id: ReplicaID
    ready_at: float
    free_at: float = 0.0
    given_s: float = 0.0
    reported_s: float = 0.0
    waited_s: float = 0.0
    series: dict[str, deque[TimeStampedValue]] = field(default_factory=dict)

    def worked_s(self, now: float) -> float:
        return self.given_s - max(0.0, self.free_at - now)


@dataclass(frozen=True)
class Moment:
    """One second of a run."""

    at: float
    target: int
    running: int
    pages: int


class Gauge:
    """Stands for Ray's, which needs a running Ray."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        pass


class Simulation:
    """One deployment whose pages take `page_s` seconds and whose replicas need `start_s` to start.

    `feeds_engines` is for the rasterizer. `load_s` is the part of the start that replicas measure, if not all of it: not the start of their processes.
    `room` is how many replicas the cluster has room for. `waits` has the seconds that each page waited until it was read.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        replicas: ReplicaRange,
        *,
        page_s: float = 1.0,
        start_s: float = 3.0,
        load_s: float | None = None,
        room: int = 10_000,
        feeds_engines: bool = False,
        seed: int = 1,
    ) -> None:
        self.now = 1_000_000.0
        self._began = self.now
        self.random = random.Random(seed)
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(autoscaling_state, "time", clock)
        monkeypatch.setattr(autoscaling_policy, "time", clock)
        monkeypatch.setattr(autoscaling_state, "metrics", SimpleNamespace(Gauge=Gauge))
        self._config = _scaling(replicas, feeds_engines=feeds_engines)["autoscaling_config"]
        self._deployment = DeploymentID("Recognizer", "ocr")
        self._autoscaler = DeploymentAutoscalingState(self._deployment)
        deployment_config = SimpleNamespace(autoscaling_config=self._config, gang_scheduling_config=None)
        info: Any = SimpleNamespace(
            deployment_config=deployment_config, target_capacity=None, target_capacity_direction=None
        )
        self._page_s, self._start_s, self._room = page_s, start_s, room
        self._load_s = start_s if load_s is None else load_s
        self._replicas: list[Replica] = []
        self._count = 0
        self._next = 0.0
        self.target = self._autoscaler.register(info, replicas.min)
        self._waiting: deque[float] = deque()
        self._queued: deque[TimeStampedValue] = deque()
        self.waits: list[float] = []
        self.moments: list[Moment] = []
        self.replica_s = 0.0
        self._adjust(0.0)

    # What happens to the deployment

    def add(self, pages: int) -> None:
        """Add pages that wait."""
        self._waiting.extend([self.now] * pages)

    def give_up(self) -> None:
        """Remove the pages that wait, as callers do who have waited too long."""
        self._waiting.clear()

    def run(self, seconds: float, each_tick: Callable[[], None] | None = None) -> list[Moment]:
        """Run on, with `each_tick` before each step; return its moments."""
        until, begun = self.now + seconds, len(self.moments)
        while self.now < until:
            if each_tick is not None:
                each_tick()
            self._tick()
        return self.moments[begun:]

    def poisson(self, pages_per_s: float) -> Callable[[], None]:
        """Return arrivals at random, for `run`."""
        self._next = self.now + self.random.expovariate(pages_per_s)

        def arrive() -> None:
            while self._next <= self.now:
                self._waiting.append(self._next)
                self._next += self.random.expovariate(pages_per_s)

        return arrive

    def callers(self, number: int) -> Callable[[], None]:
        """Return callers who send their next page when they have the last one, for `run`."""

        def fill() -> None:
            self.add(number - self.pages)

        return fill

    @property
    def pages(self) -> int:
        return len(self._waiting) + sum(replica.free_at > self.now for replica in self._replicas)

    @property
    def done(self) -> int:
        """The number of pages that have been read."""
        return len(self.waits) - sum(replica.free_at > self.now for replica in self._replicas)

    @property
    def running(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.ready_at <= self.now]

    # One step

    def _tick(self) -> None:
        self._read_pages()
        self.replica_s += len(self._replicas) * TICK_S
        self.now += TICK_S
        running, ticks_a_report = self.running, round(REPORT_S / TICK_S)
        tick = round((self.now - self._began) / TICK_S)
        for replica in running:
            replica.waited_s += TICK_S * len(self._waiting) / len(running)
            # Each at a time of its own, as in the service: a page may be in the latest reports of two replicas, or of none.
            if (tick + int(replica.id.unique_id)) % ticks_a_report == 0:
                self._report(replica, len(running))
        if tick % ticks_a_report == 0:
            self._report_queue()
            self._decide()
            self.moments.append(Moment(self.now - self._began, self.target, len(self.running), self.pages))

    def _read_pages(self) -> None:
        """Give waiting pages to the replicas that are free before this step ends, the first one free first."""
        free = [(max(replica.free_at, self.now), self.random.random(), replica) for replica in self.running]
        heapq.heapify(free)
        while self._waiting and free and free[0][0] < self.now + TICK_S:
            at, order, replica = heapq.heappop(free)
            arrived = self._waiting.popleft()
            start, takes_s = max(at, arrived), self._page_s * self.random.uniform(0.5, 1.5)
            self.waits.append(start - arrived)
            replica.free_at = start + takes_s
            replica.given_s += takes_s
            heapq.heappush(free, (replica.free_at, order, replica))

    def _report(self, replica: Replica, running: int) -> None:
        worked_s = replica.worked_s(self.now)
        work_s = max(0.0, worked_s - replica.reported_s)
        values = {
            "pages": len(self._waiting) / running + (replica.free_at > self.now),
            "mean_pages": (replica.waited_s + work_s) / REPORT_S,
            "busy": min(1.0, work_s / REPORT_S),
            "page_s": self._page_s if worked_s else 0.0,
            "at_once": 1.0,
            "start_s": self._load_s,
        }
        replica.reported_s, replica.waited_s = worked_s, 0.0
        for name, value in values.items():
            _add(replica.series.setdefault(name, deque()), self.now, value, self._since)
        metrics: Any = {name: list(series) for name, series in replica.series.items()}
        self._autoscaler.record_request_metrics_for_replica(ReplicaMetricReport(replica.id, metrics, self.now))

    def _report_queue(self) -> None:
        """Report the pages in flight that wait for a first replica, as their caller does."""
        in_flight = 0 if self.running else min(len(self._waiting), LEAST_PAGES)
        _add(self._queued, self.now, float(in_flight), self._since)
        queued: Any = list(self._queued)
        source = DeploymentHandleSource.REPLICA
        self._autoscaler.record_request_metrics_for_handle(
            HandleMetricReport(self._deployment, "handle", "actor", source, queued, {}, self.now)
        )

    @property
    def _since(self) -> float:
        return self.now - float(self._config.look_back_period_s)

    def _decide(self) -> None:
        self._autoscaler.update_running_replica_ids([replica.id for replica in self.running])
        target = self._autoscaler.get_decision_num_replicas(self.target)
        if target > self.target:
            self._autoscaler.record_scale_up()
        elif target < self.target:
            self._autoscaler.record_scale_down()
        self.target = target
        self._adjust(self._start_s)

    def _adjust(self, start_s: float) -> None:
        """Start and stop replicas as Serve does: those that are still starting are stopped first, and no page is lost."""
        while len(self._replicas) < min(self.target, self._room):
            self._count += 1
            replica_id = ReplicaID(str(self._count), self._deployment)
            self._replicas.append(Replica(replica_id, self.now + start_s))
        self._replicas.sort(key=lambda replica: replica.ready_at)
        while len(self._replicas) > self.target:
            stopped = self._replicas.pop()
            self.replica_s += max(0.0, stopped.free_at - self.now)
            self._autoscaler.on_replica_stopped(stopped.id)


def _add(series: deque[TimeStampedValue], now: float, value: float, since: float) -> None:
    """Append a value, and drop those before `since`, as Serve's store of metrics does."""
    series.append(TimeStampedValue(now, value))
    while series[0].timestamp < since:
        series.popleft()
