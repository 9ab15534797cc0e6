"""The janitor: what it resumes, what it deletes and when, and that one bad record stops nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.jobs.holders import Holders
from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.janitor import Janitor
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.leases import Leases
from serve_app.jobs.locks import Locks
from serve_app.jobs.progress import ProgressBoard
from serve_app.jobs.record import JobRecord, JobState, Webhook
from serve_app.jobs.scheduler import Scheduler
from serve_app.jobs.webhooks import Webhooks
from serve_app.metrics.catalogue import JOBS, OLDEST_JOB_SECONDS
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings
from serve_app.storage import StoreUnavailable
from serve_app.storage.folder import FolderStore
from tests.support.caches import no_cache

KEEP_S = 3600


class Away(FolderStore):
    """A folder that cannot be listed while `is_away`."""

    is_away = False

    def _keys_below(self, folder: str) -> list[str]:
        if self.is_away:
            raise StoreUnavailable("no such mount")
        return super()._keys_below(folder)


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Away(FolderStoreSettings(path=str(folder)))
        self.job_store = JobStore(self.store, no_cache())
        self.ran: list[str] = []
        self.told: list[str] = []
        self.scheduler = Scheduler(self._run, ProgressBoard(), in_flight=8)
        self.janitor = Janitor(
            self.job_store,
            IdempotencyStore(self.store),
            no_cache(),
            self.scheduler,
            Webhooks(self.job_store, self._post, "secret"),
            Leases(self.store, Holders(self.store), alone=True),
            Locks(),
            keep_s=KEEP_S,
            interval_s=0.01,
        )

    async def _run(self, record: JobRecord) -> None:
        self.ran.append(record.id)
        await asyncio.Event().wait()

    async def _post(self, url: str, *_: Any) -> int:
        self.told.append(url)
        return 200

    async def job(self, **fields: Any) -> JobRecord:
        record = JobRecord(
            id=new_document_id(),
            owner="me",
            request=DocumentRequest(engine="x", options=RecognitionOptions()),
            **fields,
        )
        await self.job_store.add(record, b"%PDF-")
        return record

    def files_of(self, record: JobRecord) -> list[str]:
        return sorted(path.name for path in self.folder.rglob(f"*{record.id}/*"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_active_jobs_are_resumed_once(house: House) -> None:
    job = await house.job()
    await house.janitor.resume()
    await house.janitor.resume()
    await asyncio.sleep(0)
    assert house.ran == [job.id]
    assert (JOBS.value(state="running"), JOBS.value(state="waiting")) == (1, 0)
    assert 0 < OLDEST_JOB_SECONDS.value() < 600
    await house.scheduler.stop(job.id)
    house.janitor.measure()
    assert (JOBS.value(state="running"), OLDEST_JOB_SECONDS.value()) == (0, 0)


async def test_a_job_whose_record_is_lost_is_abandoned_and_its_files_remain(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    job = await house.job()
    (record,) = house.folder.rglob("job.json")
    record.unlink()
    await house.janitor.resume()
    assert await house.job_store.active_ids() == [] and house.files_of(job) == ["source"]
    assert f"job {job.id}: abandoned" in caplog.text


async def test_an_unreadable_record_is_counted_and_said_once_and_stops_no_other_job(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await house.job()
    (record,) = house.folder.rglob("job.json")
    whole = record.read_bytes()
    record.write_bytes(whole[:20])
    good = await house.job()
    for _ in range(2):
        await house.janitor.resume()
    await asyncio.sleep(0)
    assert house.ran == [good.id] and house.janitor.counts.unreadable == 1
    assert caplog.text.count("cannot read") == 1 and bad.id in caplog.text
    record.write_bytes(whole)
    await house.janitor.resume()
    await asyncio.sleep(0)
    assert house.ran == [good.id, bad.id] and house.janitor.counts.unreadable == 0


async def test_a_damaged_job_that_the_operator_has_deleted_as_the_log_says_counts_no_longer(house: House) -> None:
    bad = await house.job()
    (record,) = house.folder.rglob("job.json")
    record.write_bytes(b"{")
    await house.janitor.resume()
    assert house.janitor.counts.unreadable == 1
    shutil.rmtree(record.parent)
    (house.folder / "jobs" / "active" / bad.id).unlink()
    await house.janitor.resume()
    assert house.janitor.counts.unreadable == 0


async def test_a_finished_job_that_was_not_indexed_yet_is_not_run_again(house: House) -> None:
    job = await house.job(webhook=Webhook(url="http://example.com/hook"))
    await house.job_store.save(job.ended_as(JobState.DONE, keep_s=KEEP_S))
    await house.janitor.resume()
    assert house.ran == [] and await house.job_store.active_ids() == []
    await until(lambda: house.told == ["http://example.com/hook"])


async def test_a_deletion_is_finished(house: House) -> None:
    job = await house.job()
    await house.job_store.begin_purge(job.ended_as(JobState.DELETED, keep_s=KEEP_S))
    await house.janitor.resume()
    assert house.files_of(job) == ["job.json"] and await house.job_store.active_ids() == []


async def test_results_expire_first_and_the_record_after_as_long_again(house: House) -> None:
    job = await house.job()
    await house.job_store.finish(job.ended_as(JobState.DONE, keep_s=-1))
    later = await house.job()
    await house.job_store.finish(later.ended_as(JobState.DONE, keep_s=KEEP_S))
    await house.janitor.sweep()
    assert house.files_of(job) == ["job.json"]
    expired = await house.job_store.record(job.id)
    assert expired.state is JobState.EXPIRED and expired.expires is not None
    assert expired.expires - datetime.now(UTC) > timedelta(seconds=KEEP_S - 60)
    assert house.files_of(later) == ["job.json", "source"]
    await house.job_store.finish(expired.model_copy(update={"expires": datetime.now(UTC)}))
    await House(house.folder).janitor.sweep()
    assert house.files_of(job) == []


async def test_a_look_that_fails_is_told_and_tried_again(house: House) -> None:
    house.store.is_away = True
    loops = [asyncio.create_task(loop) for loop in house.janitor.loops()]
    try:
        await until(lambda: house.janitor.failure == "no such mount")
        house.store.is_away = False
        await until(lambda: house.janitor.failure is None)
        job = await house.job()
        await until(lambda: house.ran == [job.id])
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true in five seconds")
