"""Several Jobs and several ingress replicas: which of them responds makes no difference, and one that dies loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.job_client import END_S, assert_whole, book, job_of, submit, wait_for_end, wait_until_done
from tests.support.local_service import BEAT_S, LocalJobs, LocalService

ENGINE = {"name": "dummy", "replicas": 1, "page_s": 0.1, "max_batch": 1, "text": "Привет"}
MANY: dict[str, Any] = {"engines": [ENGINE], "jobs": {"replicas": 2, "in_flight": 2}, "ingress_replicas": 2}
LONG_S = 600.0


def started(deployed: Callable[..., LocalService], settings: dict[str, Any], **options: Any) -> LocalService:
    service = deployed(settings, **options)
    service.wait_until_engines_are_ready()
    return service


def holders(service: LocalService, job_id: str) -> list[LocalJobs]:
    return [each for each in service.jobs if each._leases.holds(job_id)]


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = END_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def leases(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("jobs/leases/*"))


def test_replicas_share_the_jobs_and_each_is_read_once(deployed: Callable[..., LocalService], tmp_path: Path) -> None:
    service = started(deployed, MANY)
    with service.client() as client:
        ids = [submit(client, book(5)) for _ in range(6)]
        wait_until(lambda: all(each._scheduler.running == 2 for each in service.jobs), "both run as many as they may")
        assert all(len(holders(service, job_id)) <= 1 for job_id in ids)
        for job_id in ids:
            assert_whole(client, wait_for_end(client, job_id), 5)
        wait_until(lambda: not leases(tmp_path / "output"), "a job that has ended needs no lease")


def test_what_is_asked_of_any_ingress_reaches_the_holder(deployed: Callable[..., LocalService], tmp_path: Path) -> None:
    service = started(deployed, MANY)
    with service.client() as client:
        running, cancelled, deleted = (submit(client, book(60)) for _ in range(3))
        for job_id in (running, cancelled, deleted):
            wait_until_done(client, job_id, 2)
        for _ in range(4):
            assert job_of(client, running)["left_s"] is not None, "only its holder knows that"
            jobs = client.get("/health").json()["jobs"]
            assert jobs["state"] == "available"
        wait_until(lambda: client.get("/health").json()["jobs"]["running"] == 3, "each ingress counts those of all")
        assert client.post(f"/jobs/{cancelled}/cancel").json()["state"] == "cancelled"
        assert client.delete(f"/jobs/{deleted}").status_code == 204
        for _ in range(4):
            assert job_of(client, cancelled)["state"] == "cancelled"
            assert client.get(f"/jobs/{deleted}").status_code == 410
            assert sorted(each["id"] for each in client.get("/jobs").json()["jobs"]) == sorted([running, cancelled])
        assert client.delete(f"/jobs/{running}").status_code == 204
    assert {path.name for path in (tmp_path / "output").rglob(f"{deleted}/**/*") if path.is_file()} == {"job.json"}


def test_watchers_and_jobs_go_on_when_their_holder_dies(deployed: Callable[..., LocalService]) -> None:
    service = started(deployed, MANY)

    def watch(job_id: str) -> list[str]:
        with service.client() as client, client.stream("GET", f"/jobs/{job_id}/events") as answer:
            return [line for line in answer.iter_lines() if line]

    with service.client() as client, ThreadPoolExecutor() as watchers:
        ids = [submit(client, book(40)) for _ in range(3)]
        watching = [watchers.submit(watch, job_id) for job_id in ids for _ in range(2)]
        for job_id in ids:
            wait_until_done(client, job_id, 2)
        victim = max(service.jobs, key=lambda each: len(each._leases.held))
        orphans = [job_id for job_id in ids if victim._leases.holds(job_id)]
        service.kill(victim)
        killed = time.monotonic()
        assert orphans
        wait_until(lambda: all(holders(service, each) for each in orphans), "they are taken over", 10 * BEAT_S + 5)
        assert client.get("/health").json()["jobs"]["state"] == "available"
        for job_id in ids:
            assert_whole(client, wait_for_end(client, job_id), 40)
        assert time.monotonic() - killed < END_S
        for each in watching:
            lines = each.result(30)
            numbers = [line for line in lines if line == "event: page"]
            assert len(numbers) == 40 and lines[-2] == "event: job" and '"state": "done"' in lines[-1]


def test_a_job_whose_holder_is_dead_can_be_cancelled_and_deleted_before_it_is_taken_over(
    deployed: Callable[..., LocalService], tmp_path: Path
) -> None:
    service = started(deployed, {**MANY, "jobs": {"replicas": 3}}, beat_s=LONG_S)
    with service.client() as client:
        cancelled, deleted = (submit(client, book(60)) for _ in range(2))
        for job_id in (cancelled, deleted):
            wait_until_done(client, job_id, 2)
        for victim in {each for job_id in (cancelled, deleted) for each in holders(service, job_id)}:
            service.kill(victim)
        assert service.jobs
        assert client.post(f"/jobs/{cancelled}/cancel").json()["state"] == "cancelled"
        assert client.delete(f"/jobs/{deleted}").status_code == 204
        assert job_of(client, cancelled)["state"] == "cancelled"
        assert client.get(f"/jobs/{deleted}").status_code == 410
    assert {path.name for path in (tmp_path / "output").rglob(f"{deleted}/**/*") if path.is_file()} == {"job.json"}
