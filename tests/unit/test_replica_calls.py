"""Calls to replicas that die, refuse, or are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from serve_app.errors import PageTimeout, QueueFull, RecognitionFailed
from serve_app.pipeline.replica_calls import NoReplica, RetryPolicy, call_with_retries, wait_for_replica

RESULT = PageTimeout()
RETRY = RetryPolicy(attempts=3, pause_s=0)


def responses(*responses: Any) -> tuple[list[int], Any]:
    """The list of calls so far, and a call that gives the next of these responses, raising exceptions."""
    calls: list[int] = []

    async def send() -> Any:
        calls.append(len(calls))
        response = responses[calls[-1]]
        if isinstance(response, ActorDiedError):
            raise response
        return response

    return calls, send


async def test_a_call_is_retried_until_a_replica_survives_it() -> None:
    calls, send = responses(ActorDiedError(), ActorDiedError(), 7)
    assert await call_with_retries(send, RETRY, lost="a call") == 7
    assert len(calls) == 3


async def test_a_call_fails_after_its_attempts() -> None:
    calls, send = responses(*[ActorDiedError()] * 9)
    with pytest.raises(RecognitionFailed):
        await call_with_retries(send, RETRY, lost="a call")
    assert len(calls) == 3


async def test_an_error_as_a_response_is_raised_without_a_retry() -> None:
    calls, send = responses(QueueFull(), 7)
    with pytest.raises(QueueFull):
        await call_with_retries(send, RETRY, lost="a call")
    assert len(calls) == 1


async def test_a_response_is_awaited_as_long_as_there_is_a_replica() -> None:
    response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, response.set_result, RESULT)
    assert await wait_for_replica(response, has_replicas=lambda: True, wait_s=0, poll_s=0.01) is RESULT


class Taken(asyncio.Future[Any]):
    """A call that a replica has taken."""

    _replica_result = "there"


async def test_a_call_that_a_replica_has_taken_is_awaited_although_it_is_the_last_one_and_stops() -> None:
    response = Taken(loop=asyncio.get_running_loop())
    asyncio.get_running_loop().call_later(0.2, response.set_result, RESULT)
    assert await wait_for_replica(response, has_replicas=lambda: False, wait_s=0, poll_s=0.01) is RESULT


async def test_a_call_ends_with_its_caller() -> None:
    response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    calling = asyncio.create_task(call_with_retries(lambda: response, RETRY, lost="a call"))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert response.cancelled()


async def test_a_replica_that_returns_in_time_resets_the_wait() -> None:
    response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    looks = iter([False, True] * 100)
    asyncio.get_running_loop().call_later(0.2, response.set_result, RESULT)
    assert await wait_for_replica(response, has_replicas=lambda: next(looks), wait_s=0.02, poll_s=0.015) is RESULT


async def test_a_call_without_a_replica_is_cancelled_after_a_time() -> None:
    response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    with pytest.raises(NoReplica):
        await wait_for_replica(response, has_replicas=lambda: False, wait_s=0.03, poll_s=0.01)
    assert response.cancelled()


async def test_a_call_is_cancelled_with_its_caller() -> None:
    response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_for_replica(response, has_replicas=lambda: True, wait_s=9, poll_s=0.01))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert response.cancelled()


async def test_a_response_of_serve_is_cancelled_itself() -> None:
    """Serve would go on with the call if only its awaiting ended."""

    class Response:
        is_cancelled = False

        def __await__(self) -> Generator[Any, None, Any]:
            return asyncio.Event().wait().__await__()

        def cancel(self) -> None:
            self.is_cancelled = True

    response = Response()
    with pytest.raises(NoReplica):
        await wait_for_replica(response, has_replicas=lambda: False, wait_s=0, poll_s=0.01)
    assert response.is_cancelled
