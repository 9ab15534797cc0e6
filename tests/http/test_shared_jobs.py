"""Several Jobs and several ingress replicas: which of them responds makes no difference, and one that dies loses nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.jobs.idempotency_store import Claim, ClaimState
from serve_app.jobs.record import JobState
from tests.support.job_client import END_S, assert_whole, book, job_of, submit, wait_for_end, wait_until_done
from tests.support.local_service import LocalJobs, LocalService
from tests.support.service import KEY
from tests.support.swift_fixture import SwiftServer
from tests.support.webhook_receiver import WebhookReceiver

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
        # On a busy machine two may have a job until the next beat.
        wait_until(
            lambda: (
                all(each._scheduler.running == 2 for each in service.jobs)
                and all(len(holders(service, job_id)) <= 1 for job_id in ids)
            ),
            "both run as many as they may, and none has a job of the other",
        )
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
        wait_until(lambda: not leases(tmp_path / "output"), "no folder goes while the files are listed")
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
        wait_until(lambda: all(holders(service, each) for each in orphans), "they are taken over")
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


def test_a_job_that_only_hanging_replicas_have_is_cancelled_and_deleted_by_another_one(
    deployed: Callable[..., LocalService], tmp_path: Path
) -> None:
    service = started(deployed, {**MANY, "jobs": {"replicas": 3}}, beat_s=LONG_S)
    with service.client() as client:
        cancelled, deleted = (submit(client, book(200)) for _ in range(2))
        for job_id in (cancelled, deleted):
            wait_until_done(client, job_id, 2)
        hanging = {each for job_id in (cancelled, deleted) for each in holders(service, job_id)}
        with service.hanging(*hanging):
            began = time.monotonic()
            ended = client.post(f"/jobs/{cancelled}/cancel").json()
            assert ended["state"] == "cancelled" and ended["progress"]["done"] >= 2
            assert client.delete(f"/jobs/{deleted}").status_code == 204
            assert time.monotonic() - began < END_S / 2, "neither waits for those that hang"
            assert job_of(client, cancelled)["state"] == "cancelled"
            assert client.get(f"/jobs/{deleted}").status_code == 410
        for each in service.jobs:  # as when they go on
            beat(service, each)
        assert not any(job_id in each._scheduler for each in service.jobs for job_id in (cancelled, deleted))
        assert job_of(client, cancelled)["state"] == "cancelled"
    assert {path.name for path in (tmp_path / "output").rglob(f"{deleted}/**/*") if path.is_file()} == {"job.json"}


@pytest.fixture(params=["folder", "swift"])
def two_holders(
    request: pytest.FixtureRequest, deployed: Callable[..., LocalService], tmp_path: Path
) -> tuple[LocalService, Callable[[str], list[str]]]:
    """A service whose Jobs replicas never beat by themselves, and what its store has of a job."""
    settings: dict[str, Any] = {**MANY, "jobs": {"replicas": 2}}
    if request.param == "folder":
        output = tmp_path / "output"

        def stored(job_id: str) -> list[str]:
            return sorted(
                str(each.relative_to(output)) for each in output.rglob("*") if each.is_file() and job_id in str(each)
            )

        return started(deployed, settings, beat_s=LONG_S), stored
    swift: SwiftServer = request.getfixturevalue("swift")
    prefix = uuid.uuid4().hex
    store, keys = swift.store_settings(prefix)

    def stored_in_swift(job_id: str) -> list[str]:
        return sorted(key.removeprefix(f"{prefix}/") for key in swift.written(prefix) if job_id in key)

    return started(deployed, {**settings, "store": store}, secrets=keys, beat_s=LONG_S), stored_in_swift


def give_to_both(service: LocalService, job_id: str) -> tuple[LocalJobs, LocalJobs]:
    """Have a job run at both replicas; return the one that had it, and the other."""
    (holder,) = holders(service, job_id)
    (other,) = (each for each in service.jobs if each is not holder)
    progress = holder._board.get(job_id)
    assert progress is not None
    with held_back(service, holder, 0), held_back(service, other, 2):  # or one might be done before the other begins
        service.call(other.wake(progress.record.model_copy(deep=True)))
        wait_until(lambda: at_work(other, job_id), "the other one is at work too")
    return holder, other


@contextmanager
def held_back(service: LocalService, replica: LocalJobs, pages: int) -> Iterator[None]:
    """Let a replica store no more than this many pages meanwhile."""
    go_on, begun, save_page = asyncio.Event(), itertools.count(1), replica._job_store.save_page

    async def save(*arguments: Any) -> None:
        if next(begun) > pages:
            await go_on.wait()
        await save_page(*arguments)

    async def release() -> None:
        go_on.set()

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replica._job_store, "save_page", save)
            yield
    finally:
        service.call(release())


def at_work(replica: LocalJobs, job_id: str) -> bool:
    """Whether a replica has read pages of a job itself, and is not at its end."""
    progress = replica._board.get(job_id)
    return progress is not None and progress.record.total is not None and progress.version > 2


def beat(service: LocalService, replica: LocalJobs) -> None:
    service.call(replica._janitor.renew())
    service.call(replica._janitor.pass_on())


def test_two_holders_at_once_read_a_job_whole(
    two_holders: tuple[LocalService, Callable[[str], list[str]]],
) -> None:
    service, stored = two_holders
    with service.client() as client:
        job_id = submit(client, book(20))
        wait_until_done(client, job_id, 2)
        both = give_to_both(service, job_id)
        assert_whole(client, wait_for_end(client, job_id), 20)
        wait_until(lambda: not any(job_id in each._scheduler for each in both), "both come to their ends")
        assert_whole(client, job_of(client, job_id), 20)
    for each in both:
        beat(service, each)
    pages = [key for key in stored(job_id) if "/page-results/" in key]
    indexes = [key for key in stored(job_id) if key.startswith("jobs/")]
    assert len(pages) == 20
    assert [key.split("/")[1] for key in indexes] == ["expires", "of"], "neither work nor a lease is left"


def test_of_two_holders_one_gives_the_job_up_at_its_next_beat(
    two_holders: tuple[LocalService, Callable[[str], list[str]]],
) -> None:
    service, _ = two_holders
    with service.client() as client:
        job_id = submit(client, book(40))
        wait_until_done(client, job_id, 2)
        both = give_to_both(service, job_id)
        for each in (*both, *both):
            beat(service, each)
        assert len([each for each in both if job_id in each._scheduler]) == 1
        assert_whole(client, wait_for_end(client, job_id), 40)


@pytest.mark.parametrize("comes_back", [True, False], ids=["beats again", "runs to its end"])
@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.DELETED])
def test_the_end_of_a_job_holds_although_a_replica_that_is_cut_off_goes_on(
    two_holders: tuple[LocalService, Callable[[str], list[str]]], state: JobState, comes_back: bool
) -> None:
    service, stored = two_holders
    with service.client() as client:
        job_id = submit(client, book(200 if comes_back else 40))
        wait_until_done(client, job_id, 2)
        cut_off, other = give_to_both(service, job_id)
        service.jobs.remove(cut_off)
        if state is JobState.CANCELLED:
            assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
        else:
            assert client.delete(f"/jobs/{job_id}").status_code == 204
        assert job_id in cut_off._scheduler and job_id not in other._scheduler
        done = cut_off._board.get(job_id)
        assert done is not None
        pages = done.record.done
        wait_until(lambda: job_id not in cut_off._scheduler or done.record.done > pages, "it goes on")
        if comes_back:
            beat(service, cut_off)
        wait_until(lambda: job_id not in cut_off._scheduler, "it stops")
        service.jobs.append(cut_off)
        for each in service.jobs:
            beat(service, each)
        for _ in range(2):
            answer = client.get(f"/jobs/{job_id}")
            if state is JobState.CANCELLED:
                assert answer.json()["state"] == "cancelled"
            else:
                assert answer.status_code == 410
    kept = [key for key in stored(job_id) if not key.startswith("jobs/expires/")]
    assert not [key for key in kept if key.startswith(("jobs/active/", "jobs/leases/"))], "no work is left"
    if state is JobState.DELETED:
        assert [Path(key).name for key in kept] == ["job.json"], kept


def test_a_replica_that_is_stopped_hands_its_jobs_over_at_once(
    deployed: Callable[..., LocalService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.jobs.deployment.LEAVE_S", END_S)  # a busy machine may need long
    service = started(deployed, MANY)
    with service.client() as client:
        ids = [submit(client, book(30)) for _ in range(2)]
        for job_id in ids:
            wait_until_done(client, job_id, 2)
        stopped = next(each for each in service.jobs if any(each._leases.holds(job_id) for job_id in ids))
        service.jobs.remove(stopped)
        service.call(stopped.close())
        beats = tmp_path / "output" / "jobs" / "holders"
        assert not (beats / stopped._holders.me).exists(), "nobody waits for it"
        wait_until(lambda: all(holders(service, job_id) for job_id in ids), "they are taken over")
        for job_id in ids:
            assert_whole(client, wait_for_end(client, job_id), 30)


def test_the_webhook_of_a_replica_that_dies_is_sent_by_another(deployed: Callable[..., LocalService]) -> None:
    settings = {**MANY, "allowed_private_networks": ["127.0.0.2/32"]}
    service = started(deployed, settings, secrets={"OCR_WEBHOOK_SECRET": "secret"})
    with WebhookReceiver() as receiver, service.client() as client:
        job_id = submit(client, book(1), webhook=receiver.url)
        wait_until(lambda: bool(receiver.heard), "it is sent at the end")
        (holder,) = holders(service, job_id)
        service.kill(holder)
        wait_until(lambda: job_of(client, job_id)["webhook"]["state"] == "delivered", "it is sent again")
    assert [heard.headers["webhook-id"] for heard in receiver.heard] == [job_id, job_id]


def test_of_requests_with_one_key_at_two_ingress_replicas_one_is_processed(
    deployed: Callable[..., LocalService],
) -> None:
    service = started(deployed, MANY)

    def ask(path: str, key: str, pages: int) -> httpx.Response:
        headers = {"X-API-Key": KEY, "Idempotency-Key": key}
        return httpx.post(f"{service.url}{path}", headers=headers, files={"file": book(pages)}, timeout=60)

    with ThreadPoolExecutor() as clients:
        jobs = list(clients.map(lambda _: ask("/jobs", "a job", 2), range(6)))
        documents = list(clients.map(lambda _: ask("/ocr", "a document", 8), range(6)))
    assert {answer.status_code for answer in jobs} == {202} and len({answer.json()["id"] for answer in jobs}) == 1
    assert sorted(answer.status_code for answer in documents) == [200, *[409] * 5]
    (first,) = (answer for answer in documents if answer.status_code == 200)
    for _ in range(2):
        again = ask("/ocr", "a document", 8)
        assert again.content == first.content and again.headers["idempotent-replayed"] == "true"


def test_a_key_whose_request_died_once_its_job_was_stored_gets_this_job(
    deployed: Callable[..., LocalService],
) -> None:
    """The ingress was killed before it could say so in the claim, and its lease has ended since."""
    service = started(deployed, MANY)

    def claim(key: str, job_id: str, *, until: float) -> Claim:
        claim = Claim(job_id, "digest", time.time(), until=until)
        valid = service.call(service.jobs[0].claim("alice", key, claim))
        assert isinstance(valid, Claim)
        return valid

    with service.client() as client:
        stored = submit(client, book(2))
        assert claim("stored", stored, until=time.time() - 1).id == stored
        assert claim("stored", "another", until=time.time() + 15).id == stored
        wait_for_end(client, stored)
        assert claim("stored", "another", until=time.time() + 15).state is ClaimState.JOB
    assert claim("not stored", "20260101-000000000000000000000000", until=time.time() - 1).id.startswith("2026")
    assert claim("not stored", "another", until=time.time() + 15).id == "another"


def test_a_key_that_reaches_two_jobs_replicas_while_one_is_added_is_claimed_once(
    deployed: Callable[..., LocalService],
) -> None:
    service = started(deployed, MANY)

    async def claim_at_both(key: str) -> list[str]:
        claims = [Claim(f"request {number}", "digest", time.time()) for number in range(2)]
        valid = await asyncio.gather(
            *(each.claim("alice", key, claim) for each, claim in zip(service.jobs, claims, strict=True))
        )
        assert all(isinstance(each, Claim) for each in valid), valid
        return [each.id for each in valid if isinstance(each, Claim)]

    for number in range(5):
        first, second = service.call(claim_at_both(f"key {number}"))
        assert first == second


def test_a_key_may_watch_as_many_jobs_at_each_ingress_replica(deployed: Callable[..., LocalService]) -> None:
    service = started(deployed, MANY)
    with service.client() as client, ExitStack() as streams:
        job_id = submit(client, book(200))
        statuses = []
        for _ in range(36):
            watcher = streams.enter_context(service.client())
            statuses.append(streams.enter_context(watcher.stream("GET", f"/jobs/{job_id}/events")).status_code)
        assert statuses.count(200) == 32 and set(statuses[32:]) == {503}, "the limit of each of two is 16"
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 200
