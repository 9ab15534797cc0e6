"""Calls to the replicas of the Jobs deployment: to any of them, to the one that has a job, or to the one of a key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.errors import ServiceUnavailable
from serve_app.jobs.deployment import Elsewhere, JobsReport, Possession
from serve_app.jobs.idempotency_store import Claim
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState
from serve_app.runtime.broadcast import responses_in_time
from serve_app.storage import StoreUnavailable

Response = TypeVar("Response")

ELSEWHERE = Elsewhere.ELSEWHERE

log = logging.getLogger("ray.serve.ingress")

CALL_S = 2.0
"""Seconds to wait for a response. While a replica is being replaced, records are read from the store."""

END_S = 60.0
"""How long to wait for a job to be deleted. The deletion continues after that."""

CLAIM_S = 20.0
"""How long a request with an Idempotency-Key waits for a replica, while the only one is being replaced."""

REPORT_S = 20.0
"""How long a submission waits for a replica, while the only one is being replaced."""

RETRY_S = 0.2


class JobsReplicas:
    """Methods raise ServiceUnavailable if no replica responds in time, and StoreUnavailable if that is the response."""

    def __init__(self, jobs: DeploymentHandle[Any]) -> None:
        self._jobs = jobs

    async def report(self, *, limit_s: float = CALL_S) -> JobsReport:
        """Return what one replica knows of itself and of the others."""
        report: JobsReport = await _respond(self._jobs.report.remote(), limit_s)
        return report

    async def report_once_there(self) -> JobsReport:
        """Return the same. While the only replica is being replaced, wait for the next one."""
        return await _once_there(self.report, REPORT_S)

    async def wake(self, record: JobRecord) -> None:
        """Have some replica run a job that is stored."""
        await _respond(self._jobs.wake.remote(record), CALL_S)

    async def view(self, job_id: str, seen: int = -1, wait_s: float = 0) -> JobView | None:
        """Return a job once its version is above `seen`, or after `wait_s`; None if no replica has it."""
        views = await self._ask_all(
            "view", job_id, seen, wait_s, limit_s=wait_s + CALL_S, is_enough=lambda view: view is not None
        )
        # Two may have it for a while, after one was taken for dead. The one that has done more is believed.
        return max(filter(None, views), key=lambda view: view.record.done + view.record.failed, default=None)

    async def end(self, job_id: str, state: JobState) -> JobRecord | None:
        """Cancel or delete a job; return its record, or None if it was deleted already.

        If no replica that responds has the job, one of them does it in the store: one that hangs stops once it sees that.
        """
        return await _once_there(lambda: self._end(job_id, state), END_S)

    async def _end(self, job_id: str, state: JobState) -> JobRecord | None:
        asked: list[Possession] = await self._ask_all("has", job_id, limit_s=CALL_S, is_enough=lambda each: each.has)
        holders = {each.holder for each in asked if each.has}
        # Without a holder, one replica for all such calls about this job, so that they take turns.
        at = frozenset(holders or {min(each.holder for each in asked)})
        responses = await self._ask_all(
            "end", job_id, state, at, limit_s=END_S, is_enough=lambda end: end is not ELSEWHERE
        )
        ends = [each for each in responses if each is not ELSEWHERE]
        if not ends:  # it has just died
            raise ServiceUnavailable(retry_after_s=5)
        return next((each for each in ends if each is not None), None)

    async def claim(self, owner: str, name: str, claim: Claim) -> Claim:
        """Claim an Idempotency-Key at the replica that decides on it; return the valid claim.

        A claim that has been stored, but whose replica died before it responded, is valid at the next one too.
        """
        handle = self._jobs.options(session_id=f"{owner} {name}")
        valid: Claim = await _once_there(lambda: _respond(handle.claim.remote(owner, name, claim), CALL_S), CLAIM_S)
        return valid

    async def _ask_all(
        self, method: str, *arguments: Any, limit_s: float, is_enough: Callable[[Any], bool]
    ) -> list[Any]:
        """Call a method of every replica; return the responses of those that are there. One that `is_enough` ends the wait."""
        call = self._jobs.broadcast(method, *arguments)
        waiting = responses_in_time(
            call, timeout_s=limit_s, is_enough=lambda each: not isinstance(each, BaseException) and is_enough(each)
        )
        returned = await _respond(waiting, limit_s + CALL_S)
        responses = []
        for each in returned:
            if isinstance(each, StoreUnavailable):
                raise each
            if isinstance(each, BaseException):
                _log_failure(each)
            else:
                responses.append(each)
        if not responses:
            raise ServiceUnavailable(retry_after_s=5)
        return responses


async def _once_there(call: Callable[[], Awaitable[Response]], limit_s: float) -> Response:
    """Make a call that does no harm if it is made twice. While no replica responds, as in an update of the only one, repeat it."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while True:
        try:
            return await call()
        except ServiceUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(RETRY_S)


async def _respond(response: Awaitable[Any], limit_s: float) -> Any:
    try:
        async with asyncio.timeout(limit_s):
            returned = await response
    except (TimeoutError, RayError, RayServeException) as error:
        _log_failure(error)
        raise ServiceUnavailable(retry_after_s=5) from None
    if isinstance(returned, StoreUnavailable):
        raise returned
    return returned


def _log_failure(error: BaseException) -> None:
    """Log what is a bug. A replica that is dead or missing is not one."""
    if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
        log.error("a call to Jobs failed", exc_info=error)
