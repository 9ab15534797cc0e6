"""Serve's own response to a broadcast, over replicas that are stand-ins."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray.serve.handle import DeploymentBroadcastResponse

SILENCE = object()
"""The outcome of a replica that hangs."""


class Broadcasts:
    """Stands for a handle: `outcomes` are what its replicas respond, or raise. `error` is why none can be reached."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes: list[Any] = list(outcomes)
        self.error: Exception | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.waited_for = 0

    def broadcast(self, method: str, *arguments: Any) -> DeploymentBroadcastResponse:
        self.calls.append((method, *arguments))
        return DeploymentBroadcastResponse(self._send(), None)

    async def _send(self) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [SimpleNamespace(get_async=partial(self._get, outcome)) for outcome in self.outcomes]

    async def _get(self, outcome: Any) -> Any:
        if outcome is SILENCE:
            self.waited_for += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waited_for -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
