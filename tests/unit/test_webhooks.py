"""Webhooks: signed, retried, given up after a day, and not sent for a deleted job."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import standardwebhooks

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.errors import UrlFetchFailed
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, Webhook
from serve_app.jobs.webhooks import Webhooks, signature, signing_key
from serve_app.metrics.catalogue import WEBHOOK_ATTEMPTS, WEBHOOKS_ENDED
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore
from tests.support.caches import no_cache
from tests.support.metrics import grows

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=="


class Receiver:
    """Answers with these, the last one again and again. Refuses what the library of Standard Webhooks refuses."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.called = asyncio.Event()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.called.set()
        payload = standardwebhooks.Webhook(SECRET).verify(body, dict(headers))
        assert payload["type"] == "job.ended" and payload["job"]["id"] == headers["webhook-id"]
        self.heard.append(payload["job"]["id"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("secret", [SECRET, "any other text", "whsec_не base64"])
def test_the_signature_is_that_of_the_standard(secret: str) -> None:
    key, sent = signing_key(secret), datetime.now(UTC).replace(microsecond=0)
    judge = standardwebhooks.Webhook(SECRET if secret == SECRET else secret.encode())
    ours = signature(key, "id", str(int(sent.timestamp())), "тело".encode())
    assert ours == judge.sign("id", sent, "тело")


async def test_without_a_secret_nothing_is_sent(job_store: JobStore) -> None:
    receiver = Receiver(204)
    record = await ended(job_store, ago=timedelta(hours=24))
    webhook = await delivered(job_store, Webhooks(job_store, receiver.post, None), record)
    assert (webhook.state, webhook.last_answer, receiver.heard) == ("failed", "no_secret", [])


@pytest.fixture
def job_store(tmp_path: Path) -> JobStore:
    return JobStore(FolderStore(FolderStoreSettings(path=str(tmp_path))), no_cache())


def deliverer(job_store: JobStore, receiver: Receiver) -> Webhooks:
    return Webhooks(job_store, receiver.post, SECRET, pauses_s=(0.01,))


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


async def test_a_webhook_is_retried_until_it_is_accepted(job_store: JobStore) -> None:
    receiver = Receiver(500, UrlFetchFailed(), 302, 204)
    record = await ended(job_store)
    with (
        grows(WEBHOOKS_ENDED, state="delivered"),
        grows(WEBHOOK_ATTEMPTS, answer="5xx"),
        grows(WEBHOOK_ATTEMPTS, answer="url_fetch_failed"),
    ):
        webhook = await delivered(job_store, deliverer(job_store, receiver), record)
    assert (webhook.state, webhook.attempts, webhook.last_answer) == ("delivered", 4, "204")
    assert await job_store.undelivered_ids() == []
    await job_store.index_finished(await job_store.record(record.id))
    assert await job_store.undelivered_ids() == [], "a delivered webhook is not indexed again"


async def test_a_webhook_that_is_never_accepted_fails_after_a_day(job_store: JobStore) -> None:
    receiver = Receiver(503)
    record = await ended(job_store, ago=timedelta(hours=24))
    webhook = await delivered(job_store, deliverer(job_store, receiver), record)
    assert (webhook.state, webhook.attempts, webhook.last_answer) == ("failed", 1, "503")
    assert await job_store.undelivered_ids() == []


async def test_nothing_is_sent_for_a_deleted_job(job_store: JobStore) -> None:
    receiver = Receiver(503)
    webhooks = deliverer(job_store, receiver)
    record = await ended(job_store)
    webhooks.deliver(record)
    await asyncio.wait_for(receiver.called.wait(), 5)
    await webhooks.stop(record.id)
    sent = len(receiver.heard)
    await job_store.purge(record.ended_as(JobState.DELETED, keep_s=60))
    webhooks.deliver(record)
    await asyncio.wait_for(webhooks._deliveries[record.id], 5)
    assert len(receiver.heard) == sent and await job_store.undelivered_ids() == []
    assert (await job_store.record(record.id)).state is JobState.DELETED


async def test_the_outcome_does_not_restore_what_a_deletion_has_removed(job_store: JobStore) -> None:
    record = await ended(job_store)

    async def delete(*_: object) -> int:
        await job_store.purge(record.ended_as(JobState.DELETED, keep_s=60))
        return 204

    webhooks = Webhooks(job_store, delete, SECRET)
    webhooks.deliver(record)
    await asyncio.wait_for(webhooks._deliveries[record.id], 5)
    stored = await job_store.record(record.id)
    assert (stored.state, stored.webhook) == (JobState.DELETED, None)
