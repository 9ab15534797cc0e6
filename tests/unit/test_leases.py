"""Leases of jobs between several Jobs replicas that share a folder, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.jobs.holders import BEAT_S, DEAD_AFTER_BEATS, Holders, JobCounts
from serve_app.jobs.leases import OVERDUE_BEATS, UNLEASED_BEATS, Leases
from serve_app.settings import FolderStoreSettings
from serve_app.storage import StoreUnavailable
from serve_app.storage.folder import FolderStore

JOBS = [f"20260101-{number:024x}" for number in range(40)]


class Clock:
    """Each replica has one; they have nothing to do with each other."""

    def __init__(self, begin: float) -> None:
        self.now = begin

    def __call__(self) -> float:
        return self.now


class Replica:
    """A replica whose beats are the test's. It takes what it should after each of them, as the janitor does."""

    def __init__(self, store: FolderStore, begin: float, *, alone: bool = False) -> None:
        self.clock = Clock(begin)
        self.holders = Holders(store, clock=self.clock)
        self.leases = Leases(store, self.holders, alone=alone, clock=self.clock)
        self.lost: list[str] = []

    @property
    def me(self) -> str:
        return self.holders.me

    async def beat(self, jobs: list[str], free: int = 0) -> None:
        self.clock.now += BEAT_S
        await self.leases.renew(JobCounts(free=free))
        self.lost += sorted(self.leases.lost)
        self.leases.lost.clear()
        for job_id in self.leases.to_take(jobs):
            await self.leases.take(job_id)
        await self.leases.forget_all_but(jobs)


class Away(FolderStore):
    is_away = False
    list_lags = False
    deletes_left: int | None = None  # until it is away for deletions

    def _keys_below(self, folder: str) -> list[str]:
        if self.is_away:
            raise StoreUnavailable("away")
        if self.list_lags and folder == "jobs/leases":
            return []
        return super()._keys_below(folder)

    def _delete(self, key: str) -> None:
        if self.deletes_left is not None:
            if self.deletes_left == 0:
                raise StoreUnavailable("away")
            self.deletes_left -= 1
        super()._delete(key)


@pytest.fixture
def store(tmp_path: Path) -> Away:
    return Away(FolderStoreSettings(path=str(tmp_path)))


@pytest.fixture
def replica(store: Away) -> Callable[[], Replica]:
    begins = iter((0.0, 5000.0, 1e6, -77.0))
    return lambda: Replica(store, next(begins))


async def beats(replicas: list[Replica], jobs: list[str], times: int) -> None:
    for _ in range(times):
        for each in replicas:
            await each.beat(jobs)


def held_by_one_each(replicas: list[Replica], jobs: list[str]) -> None:
    held = [job_id for each in replicas for job_id in each.leases.held]
    assert sorted(held) == sorted(jobs), "each job has one holder"


async def leases_in(store: FolderStore) -> list[str]:
    return await store.keys_below("jobs/leases")


async def test_jobs_without_leases_are_shared_out(replica: Callable[[], Replica], store: Away) -> None:
    replicas = [replica(), replica(), replica()]
    await beats(replicas, [], 2)
    await beats(replicas, JOBS, UNLEASED_BEATS + 1)
    held_by_one_each(replicas, JOBS)
    assert all(4 <= len(each.leases.held) <= 26 for each in replicas), "in about equal parts"
    await beats(replicas, JOBS, 10)
    held_by_one_each(replicas, JOBS)
    assert len(await leases_in(store)) == len(JOBS) and not any(each.lost for each in replicas)


async def test_a_job_that_has_just_been_stored_is_left_to_the_replica_that_was_asked(
    replica: Callable[[], Replica],
) -> None:
    one, two = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    await beats(replicas, JOBS[:1], UNLEASED_BEATS)
    assert not one.leases.held | two.leases.held
    await two.leases.take(JOBS[0])
    await beats(replicas, JOBS[:1], OVERDUE_BEATS * 2)
    assert not one.leases.held and two.leases.held == {JOBS[0]}


async def test_the_jobs_of_a_dead_replica_are_taken_over_within_some_beats_by_all_others(
    replica: Callable[[], Replica], store: Away
) -> None:
    dead, one, two = replicas = [replica(), replica(), replica()]
    await beats(replicas, [], 2)
    for job_id in JOBS:
        await dead.leases.take(job_id)
    await beats(replicas, JOBS, 5)
    assert dead.leases.held == set(JOBS)
    await beats([one, two], JOBS, DEAD_AFTER_BEATS - 1)
    assert not one.leases.held, "not yet"
    await beats([one, two], JOBS, 2)
    held_by_one_each([one, two], JOBS)
    assert all(len(each.leases.held) > 8 for each in (one, two))
    assert not any(dead.me in key for key in await leases_in(store)), "its leases are gone"


async def test_the_jobs_of_a_replica_that_leaves_are_taken_over_at_the_next_beat(
    replica: Callable[[], Replica],
) -> None:
    leaving, one, two = replicas = [replica(), replica(), replica()]
    await beats(replicas, [], 2)
    for job_id in JOBS:
        await leaving.leases.take(job_id)
    await beats(replicas, JOBS, 1)
    await leaving.holders.leave()
    await beats([one, two], JOBS, 1)
    held_by_one_each([one, two], JOBS)


async def test_a_replica_that_was_suspended_gives_up_what_others_have_taken(
    replica: Callable[[], Replica], store: Away
) -> None:
    suspended, one = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    for job_id in JOBS[:4]:
        await suspended.leases.take(job_id)
    await beats([one], JOBS[:4], DEAD_AFTER_BEATS + 2)
    assert one.leases.held == set(JOBS[:4]) == suspended.leases.held, "two have them for a while"
    suspended.clock.now += 60
    await suspended.beat(JOBS[:4])
    assert sorted(suspended.lost) == JOBS[:4] and not suspended.leases.held
    await beats(replicas, JOBS[:4], 10)
    assert one.leases.held == set(JOBS[:4]) and not one.lost
    assert len(await leases_in(store)) == 4


async def test_who_was_suspended_does_not_take_the_others_for_dead(replica: Callable[[], Replica]) -> None:
    suspended, one = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    await one.leases.take(JOBS[0])
    await beats([one], JOBS[:1], 10)
    suspended.clock.now += 1000
    assert suspended.leases.to_take(JOBS[:1]) == []
    await beats(replicas, JOBS[:1], 3)
    assert one.leases.held == {JOBS[0]} and not suspended.leases.held


async def test_of_two_that_take_a_job_at_once_one_keeps_it(replica: Callable[[], Replica], store: Away) -> None:
    replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    for each in replicas:
        await each.leases.take(JOBS[0])
    await beats(replicas, JOBS[:1], 2)
    held_by_one_each(replicas, JOBS[:1])
    first, second = sorted(replicas, key=lambda each: each.me)
    assert first.leases.held == {JOBS[0]} and second.lost == [JOBS[0]]
    await beats(replicas, JOBS[:1], 10)
    assert await leases_in(store) == [f"jobs/leases/{JOBS[0]}.{first.me}"]


async def test_while_the_store_is_away_nobody_is_dead(replica: Callable[[], Replica], store: Away) -> None:
    one, two = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    await one.leases.take(JOBS[0])
    store.is_away = True
    for _ in range(10):
        for each in replicas:
            with pytest.raises(StoreUnavailable):
                await each.beat(JOBS[:1])
    store.is_away = False
    await beats([two, one], JOBS[:1], 5)
    assert one.leases.held == {JOBS[0]} and not two.leases.held and not one.lost


async def test_a_lease_that_the_list_does_not_have_yet_is_kept(replica: Callable[[], Replica], store: Away) -> None:
    one = replica()
    await one.leases.take(JOBS[0])
    store.list_lags = True
    await one.beat(JOBS[:1])
    assert one.leases.held == {JOBS[0]} and not one.lost


async def test_a_job_that_was_lost_is_known_although_the_store_fails_after_it(
    replica: Callable[[], Replica], store: Away
) -> None:
    suspended, other = replicas = sorted([replica(), replica()], key=lambda each: each.me, reverse=True)
    await beats(replicas, [], 1)
    for job_id in JOBS[:6]:
        await suspended.leases.take(job_id)
        await store.put(f"jobs/leases/{job_id}.{other.me}", b"", "application/octet-stream")
    store.deletes_left = 3
    with pytest.raises(StoreUnavailable):
        await suspended.leases.renew(JobCounts())
    store.deletes_left = None
    assert len(suspended.leases.held) == 3
    assert suspended.leases.lost >= set(JOBS[:6]) - suspended.leases.held
    await suspended.leases.renew(JobCounts())
    assert suspended.leases.lost == set(JOBS[:6]) and not suspended.leases.held


async def test_a_job_that_another_one_has_just_got_is_no_reason_to_search_the_store(
    replica: Callable[[], Replica],
) -> None:
    one, two = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    await two.leases.take(JOBS[0])
    assert one.leases.to_take(JOBS[:1]) == [] and not one.leases.has_orphans
    await beats(replicas, [], UNLEASED_BEATS + 1)
    assert not one.leases.has_orphans
    assert one.leases.to_take(JOBS[1:2]) == [] and not one.leases.has_orphans
    one.clock.now += UNLEASED_BEATS * BEAT_S
    assert one.leases.has_orphans, "nobody has it"


async def test_a_job_is_given_to_one_that_can_start_it(replica: Callable[[], Replica], store: Away) -> None:
    busy, idle = replicas = [replica(), replica()]
    await beats(replicas, [], 1)
    await busy.leases.take(JOBS[0])
    await idle.beat(JOBS[:1], free=2)
    await busy.beat(JOBS[:1])
    assert busy.leases.with_free_slots() == [idle.me] * 2
    await busy.leases.give(JOBS[0], idle.me)
    assert busy.leases.with_free_slots() == [idle.me] and not busy.leases.held
    assert busy.leases.to_take(JOBS[:1]) == [] and not busy.leases.has_orphans, "it is not taken back"
    await beats([idle, busy], JOBS[:1], 3)
    assert not busy.leases.held and idle.leases.held == {JOBS[0]}
    assert len(await leases_in(store)) == 1


async def test_what_dead_replicas_have_left_is_deleted(replica: Callable[[], Replica], store: Away) -> None:
    dead, one, two = replicas = [replica(), replica(), replica()]
    await beats(replicas, [], 2)
    await dead.leases.take(JOBS[0])
    await beats([one, two], [], 50)
    assert await leases_in(store) == []
    assert await store.keys_below("jobs/holders") == sorted(f"jobs/holders/{each.me}" for each in (one, two))
    assert one.holders.alive == two.holders.alive == sorted([one.me, two.me])
    assert not one.leases.has_orphans


async def test_a_beat_of_a_newer_version_may_say_more(replica: Callable[[], Replica], store: Away) -> None:
    """During an upgrade, replicas of both versions share the jobs."""
    older = replica()
    await store.put(
        "jobs/holders/newer", b'{"count": 1, "load": {"running": 3, "free": 2, "added": 1}}', "application/json"
    )
    await beats([older], [], 1)
    assert older.holders.counts_of_others == JobCounts(running=3, free=2)


async def test_one_of_them_is_the_first(replica: Callable[[], Replica]) -> None:
    one, two = replicas = [replica(), replica()]
    await beats(replicas, [], 2)
    assert [one.leases.is_first, two.leases.is_first].count(True) == 1


async def test_one_that_is_alone_has_every_job_and_writes_nothing(store: Away) -> None:
    alone = Replica(store, 0, alone=True)
    assert alone.leases.to_take(JOBS) == JOBS and alone.leases.holds(JOBS[0]) and alone.leases.is_first
    await alone.leases.take(JOBS[0])
    assert await store.keys_below("jobs") == []
