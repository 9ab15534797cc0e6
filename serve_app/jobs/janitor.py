"""Searches the store for work that is left over: jobs to resume, deletions to finish, results that have expired.

With several Jobs replicas it also renews the leases of this one, and passes on what the others can do sooner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from serve_app.jobs.holders import BEAT_S, JobCounts
from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.leases import Leases
from serve_app.jobs.locks import Locks
from serve_app.jobs.record import JobRecord, JobState
from serve_app.jobs.scheduler import Scheduler
from serve_app.jobs.webhooks import Webhooks
from serve_app.metrics.catalogue import JOBS, OLDEST_JOB_SECONDS
from serve_app.pipeline.page_cache import PageCache
from serve_app.scheduling.few_at_once import FewAtOnce
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.jobs")

INTERVAL_S = 10.0

EXPIRE_AT_ONCE = 8
"""Jobs whose results are being deleted at once: each takes a dozen calls of the store, one after another."""


class Janitor:
    """Resumes what a killed process has left, and deletes what has expired: at the start, then every `interval_s` seconds."""

    def __init__(
        self,
        job_store: JobStore,
        idempotency_store: IdempotencyStore,
        cache: PageCache,
        scheduler: Scheduler,
        webhooks: Webhooks,
        leases: Leases,
        locks: Locks,
        *,
        keep_s: float,
        interval_s: float = INTERVAL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        """`locks` excludes other changes of a job, by its id. `keep_s`: how long the record of an expired job is kept."""
        self._job_store = job_store
        self._idempotency_store = idempotency_store
        self._cache = cache
        self._scheduler = scheduler
        self._webhooks = webhooks
        self._leases = leases
        self._locks = locks
        self._keep_s = keep_s
        self._interval_s = interval_s
        self._beat_s = beat_s
        self._failures: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._not_before: dict[str, datetime] = {}

    @property
    def failure(self) -> str | None:
        """Why the last search failed; None if it succeeded."""
        return next(iter(self._failures.values()), None)

    @property
    def counts(self) -> JobCounts:
        """The jobs of this replica."""
        scheduler = self._scheduler
        return JobCounts(scheduler.running, scheduler.waiting, scheduler.free, len(self._unreadable))

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return coroutines to run in the background: several, so that a long sweep delays neither resuming nor a beat."""
        loops = [
            self._repeat("resume", self.resume, self._wait_for_orphans),
            self._repeat("sweep", self.sweep, partial(asyncio.sleep, self._interval_s)),
        ]
        if not self._leases.is_alone:
            beat = partial(asyncio.sleep, self._beat_s)
            loops += [self._repeat("renew", self.renew, beat), self._repeat("pass on", self.pass_on, beat)]
        return loops

    async def resume(self) -> None:
        """Resume all jobs and webhooks that have not ended and that this replica should have. Raises StoreUnavailable."""
        self.measure()
        active = await self._job_store.active_ids()
        for job_id in self._leases.to_take(active):
            if job_id in self._scheduler:
                continue
            async with self._locks[job_id]:
                if not self._leases.to_take([job_id]):  # it has just been given away
                    continue
                await self._leases.take(job_id)
                if (record := await self._record(job_id)) is not None:
                    await self._resume(record)
                elif job_id not in self._unreadable:
                    log.error("job %s: abandoned, since its record is lost; its other files remain in %s",
                              job_id, self._job_store.location(job_id))  # fmt: skip
                    await self._job_store.abandon(job_id)
        undelivered = await self._job_store.undelivered_ids()
        for job_id in self._leases.to_take(undelivered):
            async with self._locks[job_id]:
                if self._webhooks.is_delivering(job_id) or not self._leases.to_take([job_id]):
                    continue
                await self._leases.take(job_id)
                if (record := await self._record(job_id)) is not None:
                    self._webhooks.deliver(record)
        for job_id in self._unreadable - {*active, *undelivered}:
            await self._record(job_id)  # it may be gone, or mended
        await self._leases.forget_all_but([*active, *undelivered])

    def measure(self) -> None:
        """Set the metrics of the jobs here."""
        counts = self.counts
        JOBS.set(counts.running, state="running")
        JOBS.set(counts.waiting, state="waiting")
        JOBS.set(counts.unreadable, state="unreadable")
        oldest = self._scheduler.oldest
        OLDEST_JOB_SECONDS.set(0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds())

    async def renew(self) -> None:
        """Renew the leases. Raises StoreUnavailable."""
        await self._leases.renew(self.counts)

    async def pass_on(self) -> None:
        """Let go of jobs that others have, of jobs that are done, and of waiting ones that others can start at once.

        Raises StoreUnavailable.
        """
        for job_id in sorted(self._leases.lost):
            await self._let_go(job_id)
            self._leases.lost.discard(job_id)
        for job_id in self._leases.held:
            if not self._is_in_use(job_id):
                async with self._locks[job_id]:
                    if not self._is_in_use(job_id):
                        await self._leases.release(job_id)
        for holder in self._leases.with_free_slots():
            if not (in_line := self._scheduler.in_line):
                break
            await self._give(in_line[0], holder)

    def _is_in_use(self, job_id: str) -> bool:
        return job_id in self._scheduler or self._webhooks.is_delivering(job_id) or job_id in self._unreadable

    async def _let_go(self, job_id: str) -> None:
        """Stop the work on a job that another replica has. Its end may have been stored, and this replica written since."""
        log.warning("job %s: another Jobs replica has it now", job_id)
        async with self._locks[job_id]:
            await self._webhooks.stop(job_id)
            await self._scheduler.stop(job_id)
            record = await self._record(job_id)
            if record is not None and record.state.is_gone:
                await self._job_store.purge(record)
            elif record is not None and record.state.is_active:
                await self._job_store.keep_active(job_id)

    async def _give(self, job_id: str, holder: str) -> None:
        async with self._locks[job_id]:
            if self._scheduler.position(job_id) is None:  # it has just started, or ended
                return
            await self._scheduler.stop(job_id)
            await self._leases.give(job_id, holder)
            log.info("job %s: given to Jobs replica %s, which can start it", job_id, holder)

    async def _wait_for_orphans(self) -> None:
        """Wait for `interval_s`, or until the holder of a job has died."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._interval_s
        while (left_s := end - loop.time()) > 0:
            await asyncio.sleep(left_s if self._leases.is_alone else min(left_s, self._beat_s / 2))
            if not self._leases.is_alone and self._leases.has_orphans:
                return

    async def sweep(self) -> None:
        """Delete the results of jobs that have expired, and later their records too. Raises StoreUnavailable."""
        if not self._leases.is_first:
            return
        now = datetime.now(UTC)
        async with FewAtOnce(EXPIRE_AT_ONCE) as expiring:
            async for day, job_id in self._job_store.expiring(now):
                if self._not_before.get(job_id, now) <= now:
                    await expiring.start(self._expire(day, job_id, now))
        await self._idempotency_store.sweep(now)
        await self._cache.sweep(now)

    async def _expire(self, day: str, job_id: str, now: datetime) -> None:
        """Delete the results of a job that has expired, or its record too if it is gone; remember when one has not."""
        record = await self._record(job_id)
        if job_id in self._unreadable:
            return
        if record is not None and (record.expires is None or record.expires > now):
            self._not_before[job_id] = record.expires or now + timedelta(hours=1)
            return
        self._not_before.pop(job_id, None)
        if record is None or record.state.is_gone:
            await self._job_store.delete_all(job_id)
            await self._job_store.drop_expiry(day, job_id)
            return
        log.info("job %s: expired; its results are deleted", job_id)
        until = now + timedelta(seconds=self._keep_s)
        expired = record.model_copy(update={"state": JobState.EXPIRED, "expires": until})
        async with self._locks[job_id]:
            await self._job_store.begin_purge(expired)
            await self._job_store.drop_expiry(day, job_id)
            await self._job_store.purge(expired)

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await work()
                self._failures.pop(name, None)
            except StoreUnavailable as error:
                if self._failures.get(name) != str(error):
                    log.warning("cannot %s jobs, as the store is unavailable: %s", name, error)
                self._failures[name] = str(error)
            except Exception as error:  # a bug must not end this loop, and /health must report it
                self._failures[name] = f"cannot {name} jobs: {type(error).__name__}"
                log.exception("cannot %s jobs", name)
            await pause()

    async def _resume(self, record: JobRecord) -> None:
        if record.state.is_active:
            self._scheduler.add(record)
        elif record.state.is_gone:
            await self._job_store.purge(record)
        else:
            await self._job_store.index_finished(record)

    async def _record(self, job_id: str) -> JobRecord | None:
        """Read the record of a job that an index names; None if it is lost or unreadable, which must not stop the others."""
        try:
            record = await self._job_store.record(job_id)
            self._unreadable.discard(job_id)
            return record
        except KeyError:
            self._unreadable.discard(job_id)
        except ValueError as error:
            if job_id not in self._unreadable:
                log.error(
                    "job %s: cannot read %s/job.json (%s). Restore it from a copy; or delete that folder and "
                    "jobs/active/%s, and the job with them", job_id, self._job_store.location(job_id), _first_line(error), job_id
                )  # fmt: skip
            self._unreadable.add(job_id)
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
