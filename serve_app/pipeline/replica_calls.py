"""Calls to replicas of a deployment, which may die or be missing meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from serve_app.document import PageResult
from serve_app.errors import QueueFull, RecognitionFailed, ServiceError, ServiceUnavailable
from serve_app.scheduling.admission import BUSY_RETRY_AFTER_S

log = logging.getLogger("ray.serve.pipeline")


class NoReplica(Exception):
    """The deployment has had no replica for too long."""


@dataclass(frozen=True)
class RetryPolicy:
    """Retries of calls whose replica dies: `attempts` in all, then the call fails.

    The pause before a retry is `pause_s` (seconds) times the number of attempts so far. A call that waits for a
    replica checks every `poll_s` whether there is one.
    """

    attempts: int = 4
    pause_s: float = 0.2
    poll_s: float = 1.0

    async def pause(self, attempt: int) -> None:
        await asyncio.sleep(self.pause_s * attempt)


async def call_with_retries(send: Callable[[], Any], retry: RetryPolicy, *, lost: str) -> Any:
    """Call a replica and return its response. If the replica dies, call another one; `lost` is the log message for that.

    Raises ServiceError, also if that is the response.
    """
    for attempt in range(1, retry.attempts + 1):
        call = send()
        try:
            response = await call
        except asyncio.CancelledError:
            call.cancel()  # otherwise Serve continues it
            raise
        except RayActorError:
            log.warning("%s (attempt %d of %d)", lost, attempt, retry.attempts)
            await retry.pause(attempt)
            continue
        except BackPressureError:
            raise QueueFull(retry_after_s=BUSY_RETRY_AFTER_S) from None
        except DeploymentUnavailableError:
            log.exception("a deployment has failed; `serve status` tells why")
            raise ServiceUnavailable(retry_after_s=BUSY_RETRY_AFTER_S) from None
        if isinstance(response, ServiceError):
            raise response
        return response
    raise RecognitionFailed("The document could not be read: every replica that tried it died.")


async def wait_for_replica(
    response: Any, *, has_replicas: Callable[[], bool], wait_s: float, poll_s: float
) -> PageResult | ServiceError:
    """Await a recognizer's response, but no longer than `wait_s` without any replica: Serve would wait forever.

    A call that a replica has taken is awaited in any case: a replica that stops finishes it. If the caller is cancelled, so
    is the call. Raises NoReplica, and whatever the call raises.
    """
    waiting: asyncio.Future[PageResult | ServiceError] = asyncio.ensure_future(response)
    missing_since = None
    try:
        while not (await asyncio.wait({waiting}, timeout=poll_s))[0]:
            now = time.monotonic()
            is_taken = getattr(response, "_replica_result", None) is not None  # Ray is pinned
            missing_since = None if is_taken or has_replicas() else missing_since or now
            if missing_since is not None and now - missing_since >= wait_s:
                raise NoReplica
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.add_done_callback(_retrieve_exception)
            waiting.cancel()
            response.cancel()  # otherwise Serve continues the call


def are_pixels_lost(error: RayTaskError | RayServeException | ObjectLostError) -> bool:
    """Whether a call failed because its argument, the rasterizer's response, died with its process.

    Ray names it as the task's cause if the recognizer noticed; Serve names it as the cause of its exception if the router did.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error.__cause__
    return isinstance(error, ObjectLostError) or isinstance(cause, RayActorError | ObjectLostError)


def _retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of an abandoned call, or asyncio would log that it was never retrieved."""
    if not done.cancelled():
        done.exception()
