"""Calls to the Jobs replicas while one of them is being replaced."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import ServiceUnavailable
from serve_app.ingress import jobs_replicas
from serve_app.ingress.jobs_replicas import JobsReplicas
from serve_app.jobs.deployment import Elsewhere
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


async def test_a_replica_that_hangs_delays_no_call_about_a_job_that_another_one_has() -> None:
    record = JobRecord(
        id=new_document_id(), owner="me", request=DocumentRequest(engine="x", options=RecognitionOptions())
    )
    ends: Any = Broadcasts(SILENCE, Elsewhere.ELSEWHERE, record)
    views: Any = Broadcasts(SILENCE, None, JobView(record, 1, None, None, {}))
    async with asyncio.timeout(jobs_replicas.END_S / 2):
        assert await JobsReplicas(ends).end("job", JobState.CANCELLED) is record
        view = await JobsReplicas(views).view("job", wait_s=600)
    assert view is not None and view.record is record
