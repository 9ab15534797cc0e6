"""Calls to all replicas of a deployment at once, one of which may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle

GRACE_S = 0.2
"""How long the other replicas may take, in seconds, once a response is enough."""


def with_own_router(handle: Any) -> Any:
    """Return a handle of the same deployment for calls that are repeated for ever.

    A router knows the queue of a replica from the calls that it sends, and asks the replica once it has sent none for ten seconds. Calls to
    all replicas count as well, but bring no news: with one every second, a router would believe for ever what it knew last.
    """
    if not isinstance(handle, DeploymentHandle):  # a stand-in, which has no router
        return handle
    return DeploymentHandle(handle.deployment_name, handle.app_name)


async def responses_in_time(
    broadcast: DeploymentBroadcastResponse,
    *,
    timeout_s: float,
    is_enough: Callable[[Any], bool] = lambda response: False,
) -> list[Any]:
    """Return what each replica responded or raised; a TimeoutError for those that have not responded within `timeout_s`.

    The others are waited for only shortly once there is a response that `is_enough`. Raises TimeoutError if Serve does not
    know the deployment, and DeploymentUnavailableError if it has no replica.
    """
    async with asyncio.timeout(timeout_s) as limit:
        # `results_async` gives no response at all if one replica hangs.
        results = await broadcast._fetch_replica_results_async()
    calls = [asyncio.ensure_future(result.get_async()) for result in results]
    waiting = set(calls)
    loop = asyncio.get_running_loop()
    until = limit.when() or loop.time()
    has_enough = False
    try:
        while waiting and (left_s := until - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not has_enough and any(is_enough(_outcome(call)) for call in done):
                has_enough = True
                until = min(until, loop.time() + GRACE_S)
    finally:
        for call in waiting:
            call.cancel()
    return [TimeoutError() if call in waiting else _outcome(call) for call in calls]


def _outcome(call: asyncio.Future[Any]) -> Any:
    if call.cancelled():
        return asyncio.CancelledError()
    return call.exception() or call.result()
