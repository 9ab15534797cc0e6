"""Webhooks: tried again, given up after a day, not told of what is deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import UrlFetchFailed
from serve_app.jobs import webhooks as webhooks_module
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, Webhook
from serve_app.jobs.webhooks import Webhooks
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore
from tests.support.caches import no_cache


class Receiver:
    """Answers with these, the last one again and again."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.asked = asyncio.Event()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.asked.set()
        self.heard.append(json.loads(body)["job"]["id"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def job_store(tmp_path: Path) -> JobStore:
    return JobStore(FolderStore(FolderStoreSettings(path=str(tmp_path))), no_cache())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_module, "PAUSES_S", (0.01,))


async def ended(job_store: JobStore, *, ago: timedelta = timedelta()) -> JobRecord:
    request = DocumentRequest(engine="x", options=RecognitionOptions())
    record = JobRecord(
        id=new_document_id(), owner="me", request=request, webhook=Webhook(url="http://example.com/hook")
    )
    record = record.ended_as(JobState.DONE, keep_s=600).model_copy(update={"ended": datetime.now(UTC) - ago})
    await job_store.finish(record)
    assert await job_store.undelivered_ids() == [record.id]
    return record


async def delivered(job_store: JobStore, webhooks: Webhooks, record: JobRecord) -> Webhook:
    webhooks.deliver(record)
    webhooks.deliver(record)  # once is enough
    await asyncio.wait_for(webhooks._deliveries[record.id], 5)
    webhook = (await job_store.record(record.id)).webhook
    assert webhook is not None
    return webhook


async def test_one_is_tried_until_it_is_taken(job_store: JobStore) -> None:
    receiver = Receiver(500, UrlFetchFailed(), 302, 204)
    record = await ended(job_store)
    webhook = await delivered(job_store, Webhooks(job_store, receiver.post, "secret"), record)
    assert (webhook.state, webhook.attempts, webhook.last_answer) == ("delivered", 4, "204")
    assert await job_store.undelivered_ids() == []
    await job_store.index_finished(await job_store.record(record.id))
    assert await job_store.undelivered_ids() == [], "what is told is not to be told again"


async def test_one_that_is_never_taken_has_failed_after_a_day(job_store: JobStore) -> None:
    receiver = Receiver(503)
    record = await ended(job_store, ago=timedelta(hours=24))
    webhook = await delivered(job_store, Webhooks(job_store, receiver.post, "secret"), record)
    assert (webhook.state, webhook.attempts, webhook.last_answer) == ("failed", 1, "503")
    assert await job_store.undelivered_ids() == []


async def test_nothing_is_told_of_a_job_that_is_deleted(job_store: JobStore) -> None:
    receiver = Receiver(503)
    webhooks = Webhooks(job_store, receiver.post, "secret")
    record = await ended(job_store)
    webhooks.deliver(record)
    await asyncio.wait_for(receiver.asked.wait(), 5)
    await webhooks.stop(record.id)
    told = len(receiver.heard)
    await job_store.purge(record.ended_as(JobState.DELETED, keep_s=60))
    webhooks.deliver(record)
    await asyncio.wait_for(webhooks._deliveries[record.id], 5)
    assert len(receiver.heard) == told and await job_store.undelivered_ids() == []
    assert (await job_store.record(record.id)).state is JobState.DELETED
