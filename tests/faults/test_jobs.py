"""Jobs end as they were promised to, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.document.ids import new_document_id
from serve_app.document.options import RecognitionOptions
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobRecord, JobState, encode_record
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings, Secrets, Settings
from serve_app.storage import open_store
from serve_app.storage.monitor import StoreMonitor
from tests.support.job_client import END_S, assert_whole, book, job_of, submit, wait_for_end, wait_until_done
from tests.support.processes import kill_tree
from tests.support.service import Service
from tests.support.swift import free_port
from tests.support.swift_fixture import SwiftServer

ROOT = Path(__file__).parents[2]
PAGES = 30


def written(folder: Path) -> dict[str, int]:
    """When each page was stored."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("page-results/*.json")}


ENGINE = {"name": "dummy", "replicas": 1, "page_s": 0.15, "max_batch": 1, "text": "Привет"}


def s3_store(swift: SwiftServer) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings of a store with a prefix of its own, and the environment with its keys."""
    store = {"kind": "s3", "bucket": swift.bucket, "region": swift.region, "addressing_style": "path"}
    keys = {"OCR_S3_ACCESS_KEY_ID": swift.access_key, "OCR_S3_SECRET_ACCESS_KEY": swift.secret_key}
    return {**store, "endpoint_url": swift.endpoint_url, "prefix": uuid.uuid4().hex}, keys


def config_file(folder: Path, store: dict[str, Any]) -> Path:
    application = {
        "name": "ocr",
        "route_prefix": "/",
        "import_path": "serve_app.app:build",
        "args": {"engines": [ENGINE], "store": store, "temp_dir": str(folder / "temp")},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "applications": [application]}))
    return path


@contextmanager
def serving(config: Path, keys: dict[str, str]) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """`python -m serve_app serve`, ready."""
    port = free_port()
    home = config.parent
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_"))}
    log = home / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", "serve", str(config), "--port", str(port)],
            cwd=ROOT,
            env={**clean, "HOME": str(home), "RAY_TMPDIR": str(home), "OCR_API_KEYS": "me=key", **keys},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + END_S
        while "Press Ctrl-C to stop." not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "key"}, timeout=30) as client:
            yield client, process
    finally:
        kill_tree(process)


def kill_one(service: Service, deployment: str) -> None:
    """Kill a replica of the deployment, once there is one."""
    deadline = time.monotonic() + END_S
    while not (victims := service.replicas(deployment)):
        assert time.monotonic() < deadline, f"no replica of {deployment}"
        time.sleep(0.1)
    victims[0].send_signal(signal.SIGKILL)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_job_goes_on_where_it_was_after_everything_was_killed(
    kind: str, short_tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = short_tmp_path / "output"
    if kind == "s3":
        swift: SwiftServer = request.getfixturevalue("swift")
        store, keys = s3_store(swift)

        def stored_pages() -> dict[str, Any]:
            return {key: at for key, at in swift.written(store["prefix"]).items() if "/page-results/" in key}
    else:
        store, keys = {"kind": "folder", "path": str(output)}, {}

        def stored_pages() -> dict[str, Any]:
            return written(output)

    config = config_file(short_tmp_path, store)
    with serving(config, keys) as (client, process):
        job_id = submit(client, book(PAGES))
        waiting = submit(client, book(3))
        before = wait_until_done(client, job_id, 10)
        kill_tree(process)
    assert 10 <= before["progress"]["done"] < PAGES
    stored = stored_pages()
    assert len(stored) >= 10, "what counts as done is stored"
    with serving(config, keys) as (client, _):
        assert_whole(client, wait_for_end(client, job_id), PAGES)
        assert_whole(client, wait_for_end(client, waiting), 3)
        logged = list((short_tmp_path / "ray").rglob("serve/*Jobs*.log"))
        logged += short_tmp_path.rglob("serve/*Jobs*.log")
        text = "".join(path.read_text() for path in set(logged))
    after = stored_pages()
    assert {name: at for name, at in after.items() if name in stored} == stored, "no page is stored a second time"
    pages = [int(number) for number in re.findall(rf"job {job_id}: page (\d+) is done", text)]
    assert len(pages) == len(set(pages)), "and none is recognized again"
    stored_before = {int(Path(name).stem) for name in stored if job_id in name or kind == "folder"}
    unlogged = set(range(1, PAGES + 1)) - set(pages)
    assert unlogged <= stored_before and len(unlogged) <= 1, "one page may be stored and not logged when all is killed"


def test_a_job_of_a_document_in_a_bucket_that_is_away_for_a_while_ends_whole(
    deployed: Callable[..., Service], swift: SwiftServer, tmp_path: Path
) -> None:
    store, keys = s3_store(swift)
    allowed = f"s3://{swift.bucket}/{store['prefix']}-in/"
    jobs = {"s3_sources": [allowed]}
    service = deployed({"engines": [ENGINE], "store": store, "jobs": jobs}, secrets=keys)
    service.wait_until_engines_are_ready()
    swift.put(f"{store['prefix']}-in/книга.pdf", book(PAGES))
    with service.client() as client:
        for elsewhere in (f"s3://{swift.bucket}/{store['prefix']}/x", "s3://other/x", allowed.rstrip("/")):
            assert client.post("/jobs", json={"image_url": elsewhere}).status_code == 403, elsewhere
        none = client.post("/jobs", json={"image_url": f"{allowed}none.pdf"}).json()["id"]
        assert wait_for_end(client, none)["error"]["code"] == "url_fetch_failed"
        job_id = client.post("/jobs", json={"image_url": f"{allowed}книга.pdf"}).json()["id"]
        wait_until_done(client, job_id, 10)
        with swift.away():
            deadline = time.monotonic() + END_S
            while job_of(client, job_id)["waiting_for"] is None:
                assert time.monotonic() < deadline, "nobody says that the job waits for its store"
                time.sleep(0.2)
        assert_whole(client, wait_for_end(client, job_id), PAGES)
        result = client.get(f"/jobs/{job_id}/result", params={"output": "text"})
        assert result.text.split() == ["Привет"] * PAGES


def test_a_job_waits_for_a_folder_that_is_gone_or_another_one(deployed: Callable[..., Service], tmp_path: Path) -> None:
    service = deployed({"engines": [ENGINE]})
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


def test_recognizers_and_jobs_that_are_killed_cost_no_page(deployed: Callable[..., Service], tmp_path: Path) -> None:
    service = deployed({"engines": [{**ENGINE, "replicas": 2, "page_s": 0.3}]})
    service.wait_until_engines_are_ready()
    with service.client() as client:
        job_id = submit(client, book(PAGES))
        wait_until_done(client, job_id, 5)
        first = written(tmp_path / "output")
        for kills, deployment in enumerate(("Recognizer-dummy", "Jobs", "Recognizer-dummy", "Recognizer-dummy"), 1):
            kill_one(service, deployment)
            assert not wait_until_done(client, job_id, 5 + 5 * kills)["ended"], "it goes on after each"
        assert_whole(client, wait_for_end(client, job_id), PAGES)
    after = written(tmp_path / "output")
    assert {name: at for name, at in after.items() if name in first} == first


def test_two_jobs_that_are_alive_at_once_do_no_harm(deployed: Callable[..., Service], tmp_path: Path) -> None:
    one, other = (deployed({"engines": [{**ENGINE, "page_s": 0.4}]}) for _ in range(2))
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
        await job_store.save(deleted.ended_as(JobState.DELETED, keep_s=0))
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
