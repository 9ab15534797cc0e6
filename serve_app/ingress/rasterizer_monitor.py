"""Polls the rasterizers in the background, for /health."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.runtime.broadcast import responses_in_time

log = logging.getLogger("ray.serve.monitor")

POLL_S = 2.0
TIMEOUT_S = 5.0
AWAY_S = 8.0
"""Seconds without a response after which /health reports the rasterizers as away. Shorter gaps are normal while the only
one is replaced."""
POLLED_PER_S = 200
"""Replicas asked in a second, at most: see EngineMonitor."""


class RasterizerMonitor:
    """Has the number of `replicas` that responded to the last poll; None before the first one."""

    def __init__(self, rasterizer: DeploymentHandle[Any]) -> None:
        self._rasterizer = rasterizer
        self._responded_at = self._polled_at = time.monotonic()
        self.replicas: int | None = None

    @property
    def is_away(self) -> bool:
        return time.monotonic() - self._responded_at > AWAY_S

    @property
    def age_s(self) -> float:
        """Seconds since `replicas` was found."""
        return time.monotonic() - self._polled_at

    async def run(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(max(POLL_S, (self.replicas or 0) / POLLED_PER_S))

    async def poll(self) -> None:
        """Ask all replicas whether they respond."""
        try:
            answers = await responses_in_time(self._rasterizer.broadcast("ping"), timeout_s=TIMEOUT_S)
            self.replicas = sum(answer is True for answer in answers)
        except (DeploymentUnavailableError, TimeoutError):  # there is none, or Serve does not know the deployment yet
            self.replicas = 0
        except Exception as error:
            # The controller died during the poll; the next round polls again.
            log.debug("could not ask the rasterizers: %s", type(error).__name__)
            return
        self._polled_at = time.monotonic()
        if self.replicas:
            self._responded_at = self._polled_at
