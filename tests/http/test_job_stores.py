"""Jobs whose store fails for a while, is shared by two services, or holds what another process was killed at."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, encode_record
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings, Secrets, Settings
from serve_app.storage import open_store, spooled_writes
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.s3 import Patience, S3Store
from tests.support.job_client import END_S, assert_whole, book, job_of, submit, wait_for_end, wait_until_done
from tests.support.service import Service
from tests.support.swift_fixture import SwiftServer

PAGES = 30
ENGINE = {"name": "dummy", "replicas": 1, "page_s": 0.15, "max_batch": 1, "text": "Привет"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to a bucket that hangs fails in 5 s, instead of half a minute."""
    defaults = S3Store.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience", Patience(read_s=2, attempts=2))
    monkeypatch.setattr(spooled_writes, "PUT_S", 1.0)


@pytest.mark.usefixtures("impatient")
def test_a_job_of_a_document_in_a_bucket_that_is_away_for_a_while_ends_whole(
    deployed: Callable[..., Service], swift: SwiftServer
) -> None:
    prefix = uuid.uuid4().hex
    store, keys = swift.store_settings(prefix)
    allowed = f"s3://{swift.bucket}/{prefix}-in/"
    jobs = {"s3_sources": [allowed]}
    service = deployed({"engines": [ENGINE], "store": store, "jobs": jobs}, secrets=keys)
    service.wait_until_engines_are_ready()
    swift.put(f"{prefix}-in/книга.pdf", book(PAGES))
    with service.client() as client:
        for elsewhere in (f"s3://{swift.bucket}/{prefix}/x", "s3://other/x", allowed.rstrip("/")):
            assert client.post("/jobs", json={"image_url": elsewhere}).status_code == 403, elsewhere
        none = client.post("/jobs", json={"image_url": f"{allowed}none.pdf"}).json()["id"]
        assert wait_for_end(client, none)["error"]["code"] == "url_fetch_failed"
        job_id = client.post("/jobs", json={"image_url": f"{allowed}книга.pdf"}).json()["id"]
        wait_until_done(client, job_id, 10)
        stored = swift.written(prefix)
        with swift.away():
            wait_until_done(client, job_id, PAGES)  # the pages wait in the spool
            last = client.get(f"/jobs/{job_id}/pages/{PAGES}")
            assert (last.status_code, last.json()["text"]) == (200, "Привет")
            deadline = time.monotonic() + END_S
            while job_of(client, job_id)["waiting_for"] is None:
                assert time.monotonic() < deadline, "nobody says that the job waits for its store"
                time.sleep(0.2)
            assert client.get("/health").json()["spool"]["results"] > 0
        assert_whole(client, wait_for_end(client, job_id), PAGES)
        assert (
            swift.written(prefix).items() >= {key: at for key, at in stored.items() if "/page-results/" in key}.items()
        )
        deadline = time.monotonic() + END_S
        while client.get("/health").json()["spool"] != {"results": 0, "bytes": 0}:
            assert time.monotonic() < deadline, "the spool is not emptied"
            time.sleep(0.2)
        result = client.get(f"/jobs/{job_id}/result", params={"output": "text"})
        assert result.text.split() == ["Привет"] * PAGES


def test_a_job_without_a_spool_waits_for_a_folder_that_is_gone_or_another_one(
    deployed: Callable[..., Service], tmp_path: Path
) -> None:
    service = deployed({"engines": [ENGINE], "spool_mb": 0})
    service.wait_until_engines_are_ready()
    output, away = tmp_path / "output", tmp_path / "away"
    with service.client() as client:
        job_id = submit(client, book(PAGES))
        for pages, instead in ((3, "file"), (9, "nothing"), (15, "folder")):
            wait_until_done(client, job_id, pages)
            output.rename(away)
            if instead == "file":
                output.write_text("in the way")
            elif instead == "folder":
                output.mkdir()
            deadline = time.monotonic() + 25
            while (health := client.get("/health").json())["output_writable"]:
                assert time.monotonic() < deadline, f"nobody says that the store is {instead}"
                time.sleep(0.5)
            assert health["status"] == "degraded" and str(output) in health["storage_reason"]
            for path in ("/jobs", f"/jobs/{job_id}/pages/1"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable"), path
            while job_of(client, job_id)["waiting_for"] != "The store is not available.":
                assert time.monotonic() < deadline, job_of(client, job_id)
                time.sleep(0.2)
            if instead != "nothing":
                assert not list(output.rglob("*")), "nothing is written to where the store is not"
                output.unlink() if instead == "file" else output.rmdir()
            away.rename(output)
        assert_whole(client, wait_for_end(client, job_id), PAGES)
        (page_7,) = output.rglob("page-results/000007.json")
        page_7.unlink()
        lost = client.get(f"/jobs/{job_id}/result")
        assert (lost.json()["status"], lost.json()["pages"][6]["error"]["code"]) == ("partial", "page_lost")


def test_two_services_that_run_the_same_jobs_at_once_do_no_harm(
    deployed: Callable[..., Service], tmp_path: Path
) -> None:
    one, other = (deployed({"engines": [{**ENGINE, "page_s": 0.2}]}) for _ in range(2))
    for service in (one, other):
        service.wait_until_engines_are_ready()
    with one.client() as client, other.client() as other_client:
        job_id, cancelled, deleted = (submit(client, book(20)) for _ in range(3))
        deadline = time.monotonic() + END_S
        for each in (job_id, cancelled, deleted):
            while job_of(other_client, each)["left_s"] is None:  # it tells of jobs that it is at work on itself
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert client.post(f"/jobs/{cancelled}/cancel").json()["state"] == "cancelled"
        assert client.delete(f"/jobs/{deleted}").status_code == 204
        ends = [wait_for_end(asking, job_id) for asking in (client, other_client)]
        while (
            list((tmp_path / "output/jobs").glob("active/*")) or other_client.get("/health").json()["jobs"]["running"]
        ):
            assert time.monotonic() < deadline + END_S
            time.sleep(0.5)
        for asking, end in zip((client, other_client), ends, strict=True):
            assert_whole(asking, end, 20)
            assert job_of(asking, cancelled)["state"] == "cancelled"
            assert asking.get(f"/jobs/{deleted}").status_code == 410
    left = [path.name for path in (tmp_path / "output").rglob(f"{deleted}/**/*") if path.is_file()]
    assert left == ["job.json"]


def test_what_others_were_killed_at_is_done(deployed: Callable[..., Service], tmp_path: Path) -> None:
    output = tmp_path / "output"
    request = DocumentRequest(engine="dummy", options=RecognitionOptions())
    jobs = [JobRecord(id=new_document_id(), owner="alice", request=request) for _ in range(5)]
    lost, newer, cancelled, deleted, done = jobs

    async def leave() -> None:
        settings = Settings(store=FolderStoreSettings(path=str(output)))
        store = open_store(settings.store, Secrets())
        job_store = JobStore(store, PageCache(store, StoreMonitor(store), settings, lambda engine: None))
        for record in jobs:
            await job_store.add(record, book(2))
        await job_store.save(cancelled.ended_as(JobState.CANCELLED, keep_s=60))
        await job_store.save(deleted.ended_as(JobState.DELETED, keep_s=60))
        await store.close()

    asyncio.run(leave())
    (lost_file,) = output.rglob(f"{lost.id}/job.json")
    lost_file.unlink()
    (newer_file,) = output.rglob(f"{newer.id}/job.json")
    newer_file.write_bytes(encode_record(newer).replace(b'"version":1', b'"version":2'))
    service = deployed({"engines": [ENGINE]})
    with service.client() as client:
        assert_whole(client, wait_for_end(client, done.id), 2)
        deadline = time.monotonic() + 20
        while (left := os.listdir(output / "jobs/active")) != [newer.id]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        while (health := client.get("/health").json())["jobs"]["unreadable"] != 1:
            assert time.monotonic() < deadline, health
            time.sleep(0.2)
        assert health["status"] == "degraded" and health["output_writable"]
        assert client.get(f"/jobs/{cancelled.id}").json()["state"] == "cancelled"
        assert client.get(f"/jobs/{deleted.id}").status_code == 410
        assert client.get(f"/jobs/{lost.id}").status_code == 404
    (record_file,) = output.rglob(f"{deleted.id}/job.json")
    assert os.listdir(record_file.parent) == ["job.json"]
