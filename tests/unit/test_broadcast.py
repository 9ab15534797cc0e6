"""Calls to all replicas at once: Serve's own response object, over replicas of which one hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentBroadcastResponse

from serve_app.runtime.broadcast import responses_in_time
from tests.support.broadcasts import SILENCE, Broadcasts

LONG_S = 60


async def test_those_that_respond_are_heard_beside_one_that_hangs_and_one_that_died() -> None:
    replicas = Broadcasts(1, SILENCE, RayActorError(), 2)
    one, silent, dead, two = await responses_in_time(replicas.broadcast("x"), timeout_s=0.1)
    assert (one, two) == (1, 2)
    assert isinstance(silent, TimeoutError) and isinstance(dead, RayActorError)
    await asyncio.sleep(0)
    assert replicas.waited_for == 0, "nobody waits for it any more"


async def test_a_response_that_is_enough_ends_the_wait() -> None:
    replicas = Broadcasts("elsewhere", SILENCE, "record")
    async with asyncio.timeout(LONG_S / 2):
        responses = await responses_in_time(
            replicas.broadcast("x"), timeout_s=LONG_S, is_enough=lambda response: response == "record"
        )
    assert responses[::2] == ["elsewhere", "record"] and isinstance(responses[1], TimeoutError)


async def test_all_are_heard_without_delay_if_none_hangs() -> None:
    async with asyncio.timeout(LONG_S / 2):
        assert await responses_in_time(Broadcasts(1, 2, 3).broadcast("x"), timeout_s=LONG_S) == [1, 2, 3]


async def test_without_replicas_and_without_a_deployment_it_raises() -> None:
    async def unknown() -> list[Any]:
        await asyncio.Event().wait()
        return []

    nobody = Broadcasts()
    nobody.error = DeploymentUnavailableError(DeploymentID("x"))
    with pytest.raises(DeploymentUnavailableError):
        await responses_in_time(nobody.broadcast("x"), timeout_s=LONG_S)
    with pytest.raises(TimeoutError):
        await responses_in_time(DeploymentBroadcastResponse(unknown(), None), timeout_s=0.05)
