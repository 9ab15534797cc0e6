"""Calls to the Jobs replicas while one of them is being replaced."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentBroadcastResponse

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import ServiceUnavailable
from serve_app.ingress import jobs_replicas
from serve_app.ingress.jobs_replicas import ELSEWHERE, JobsReplicas
from serve_app.jobs.deployment import Possession
from serve_app.jobs.idempotency_store import Claim
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import JobRecord, JobState
from serve_app.pipeline.request import DocumentRequest
from tests.support.broadcasts import SILENCE, Broadcasts


class Handle:
    """Stands for the handle of Jobs: each call gives what is next."""

    def __init__(self, *responses: Any) -> None:
        self.responses = list(responses)
        self.claim = SimpleNamespace(remote=self._call)

    def options(self, session_id: str) -> Handle:
        return self

    async def _call(self, *_: Any) -> Any:
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response


@pytest.fixture
def claim() -> Claim:
    now = time.time()
    return Claim("id", "digest", now, until=now + 15)


async def test_a_claim_waits_for_the_next_replica(claim: Claim) -> None:
    handle: Any = Handle(RayActorError(), RayActorError(), claim)
    assert await JobsReplicas(handle).claim("alice", "key", claim) == claim
    assert handle.responses == []


async def test_but_not_forever(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_replicas, "CLAIM_S", 0)
    handle: Any = Handle(RayActorError(), claim)
    with pytest.raises(ServiceUnavailable):
        await JobsReplicas(handle).claim("alice", "key", claim)


def record() -> JobRecord:
    request = DocumentRequest(engine="x", options=RecognitionOptions())
    return JobRecord(id=new_document_id(), owner="me", request=request)


class Replicas(Broadcasts):
    """Stands for the handle of Jobs: three replicas, of which the first hangs. The last one has the job, or nobody else does."""

    def __init__(self, ended: JobRecord, *, has: bool) -> None:
        super().__init__()
        self.ended = ended
        self.has = has
        self.ended_at: list[str] = []

    def broadcast(self, method: str, *arguments: Any) -> DeploymentBroadcastResponse:
        if method == "has":
            self.outcomes = [SILENCE, Possession("b", False), Possession("a", self.has)]
        else:
            (holder,) = arguments[-1]
            self.ended_at.append(holder)
            self.outcomes = [SILENCE, *(self.ended if each == holder else ELSEWHERE for each in ("b", "a"))]
        return super().broadcast(method, *arguments)


@pytest.mark.parametrize("has", [True, False], ids=["another one has the job", "it may have the job"])
async def test_a_replica_that_hangs_does_not_delay_the_end_of_a_job(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_replicas, "CALL_S", 0.05)
    replicas: Any = Replicas(record(), has=has)
    async with asyncio.timeout(jobs_replicas.END_S / 2):
        assert await JobsReplicas(replicas).end("job", JobState.CANCELLED) is replicas.ended
    assert replicas.ended_at == ["a"], "one that has it, else the same one for all calls"


async def test_a_replica_that_hangs_delays_no_look_at_a_job_that_another_one_has() -> None:
    seen = record()
    views: Any = Broadcasts(SILENCE, None, JobView(seen, 1, None, None, {}))
    async with asyncio.timeout(jobs_replicas.END_S / 2):
        view = await JobsReplicas(views).view("job", wait_s=600)
    assert view is not None and view.record is seen
