"""The smallest application of Ray Serve, beside which `start` measures this service."""

from __future__ import annotations

from ray import serve


class Smallest:
    async def __call__(self, request: object) -> str:
        return "ok"


application = serve.deployment()(Smallest).bind()
