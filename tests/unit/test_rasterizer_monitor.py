"""What /health believes of the rasterizers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from serve_app.ingress import rasterizer_monitor
from serve_app.ingress.rasterizer_monitor import RasterizerMonitor
from tests.support.broadcasts import SILENCE, Broadcasts


async def test_those_that_respond_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterizer_monitor, "TIMEOUT_S", 0.02)
    rasterizers: Any = Broadcasts(True, SILENCE, RayActorError(), True)
    monitor = RasterizerMonitor(rasterizers)
    await monitor.poll()
    assert (monitor.replicas, monitor.is_away) == (2, False)


async def test_none_for_a_while_is_away_until_one_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(rasterizer_monitor, "time", SimpleNamespace(monotonic=lambda: now))
    rasterizers: Any = Broadcasts(True)
    monitor = RasterizerMonitor(rasterizers)
    rasterizers.error = DeploymentUnavailableError(DeploymentID("Rasterizer"))
    await monitor.poll()
    assert (monitor.replicas, monitor.is_away) == (0, False), "its only replica may be being replaced"
    now = rasterizer_monitor.AWAY_S + 1
    assert monitor.is_away and monitor.age_s == now
    await monitor.poll()
    assert monitor.is_away and monitor.age_s == 0, "that is known"
    rasterizers.error = None
    await monitor.poll()
    assert (monitor.replicas, monitor.is_away) == (1, False)


async def test_what_is_not_known_gets_old() -> None:
    rasterizers: Any = Broadcasts(True)
    rasterizers.error = RuntimeError("the controller is being restarted")
    monitor = RasterizerMonitor(rasterizers)
    polled_at = monitor._polled_at
    await monitor.poll()
    assert monitor.replicas is None and monitor._polled_at == polled_at
