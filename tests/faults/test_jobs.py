"""A job loses no page, whichever processes of the service are killed meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support.job_client import END_S, assert_whole, book, submit, wait_for_end
from tests.support.service import Service
from tests.support.swift_fixture import SwiftServer

PAGES = 60
SHORT = 30  # pages of each of several jobs
DUMMY = {"engine": "dummy"}
IN_FLIGHT = 4  # pages of one replica of Jobs of `service`
EVERY_DEPLOYMENT = ("Ingress", "Jobs", "Rasterizer", "Recognizer-dummy")


def kill(service: Service, deployments: Sequence[str]) -> None:
    """Kill every replica of the deployments at once, when each deployment has one."""
    deadline = time.monotonic() + END_S
    while not all(victims := [service.replicas(deployment) for deployment in deployments]):
        assert time.monotonic() < deadline, f"no replica of one of {deployments}"
        time.sleep(0.1)
    for replicas in victims:
        for replica in replicas:
            replica.kill()


def wait_until_done(client: httpx.Client, job_id: str, pages: int) -> bool:
    """Wait until so many pages are done; return whether the job has ended. A killed ingress may refuse meanwhile."""
    deadline = time.monotonic() + END_S
    while True:
        assert time.monotonic() < deadline, "the job does not go on"
        answer = client.get(f"/jobs/{job_id}")
        if answer.status_code == 200 and (job := answer.json())["progress"]["done"] >= pages:
            return bool(job["ended"])
        time.sleep(0.2)


def test_the_jobs_of_a_killed_replica_go_on_at_the_other_within_seconds(
    service: Service, swift: SwiftServer, store_prefix: str
) -> None:
    def holders(ids: Sequence[str]) -> dict[str, set[str]]:
        """The Jobs replicas that have leases of each job."""
        leases = [Path(key).name.split(".") for key in swift.written(store_prefix) if "/jobs/leases/" in key]
        return {job_id: {holder for leased, holder in leases if leased == job_id} for job_id in ids}

    def submit_once(_: int) -> str:
        """Submit with one Idempotency-Key, by a connection of its own, so that both ingress replicas get some."""
        with service.client() as client:
            client.headers["Idempotency-Key"] = "one"
            return submit(client, book(2), **DUMMY)

    with service.client() as client, ThreadPoolExecutor() as clients:
        assert len(set(clients.map(submit_once, range(8)))) == 1, "both ingress replicas know of the claim"
        ids = [submit(client, book(SHORT), **DUMMY) for _ in range(6)]
        for job_id in ids:
            wait_until_done(client, job_id, 2)
        deadline = time.monotonic() + END_S
        while len(before := set.union(*holders(ids).values())) < 2:
            assert time.monotonic() < deadline, "both have some"
            time.sleep(0.2)
        victim, survivor = service.replicas("Jobs")
        victim.kill()
        killed = time.monotonic()
        while len(now := set.union(*holders(ids).values()) & before) > 1:
            assert time.monotonic() - killed < 30, (now, before)
            time.sleep(0.2)
        assert survivor.is_running()
        for job_id in ids:
            assert_whole(client, wait_for_end(client, job_id), SHORT)
        deadline = time.monotonic() + END_S
        while left := [key for key in swift.written(store_prefix) if "/jobs/leases/" in key or "/jobs/active/" in key]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)


def test_killed_processes_cost_no_page_of_a_job(service: Service, swift: SwiftServer, store_prefix: str) -> None:
    with service.client() as client:
        job_id = submit(client, book(PAGES), **DUMMY)
        in_line = submit(client, book(3), **DUMMY)

        def stored_pages() -> dict[int, object]:
            """When each page was stored, by its number."""
            objects = swift.written(store_prefix).items()
            return {int(Path(key).stem): at for key, at in objects if f"{job_id}/page-results/" in key}

        wait_until_done(client, job_id, 6)
        stored = stored_pages()
        assert len(stored) >= 6, "what counts as done is stored"
        kills = (["Recognizer-dummy"], ["Jobs"], EVERY_DEPLOYMENT)
        for count, deployments in enumerate(kills, 1):
            kill(service, deployments)
            assert not wait_until_done(client, job_id, 6 + 6 * count), "it goes on after each"
        assert_whole(client, wait_for_end(client, job_id), PAGES)
        assert_whole(client, wait_for_end(client, in_line), 3)
    after = stored_pages()
    assert {number: after[number] for number in stored} == stored, "no page is stored a second time"
    pages = [
        int(number) for log in service.logs("Jobs") for number in re.findall(rf"job {job_id}: page (\d+) is done", log)
    ]
    assert len(pages) == len(set(pages)), "and none is recognized again"
    unlogged = set(range(1, PAGES + 1)) - set(pages)
    assert len(unlogged) <= 2 * IN_FLIGHT, "those in flight may be stored and not logged each time Jobs is killed"
