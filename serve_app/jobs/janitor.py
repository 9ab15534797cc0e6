"""Searches the store for work that is left over: jobs to resume, deletions to finish, results that have expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.jobs.idempotency_store import IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.locks import Locks
from serve_app.jobs.record import JobRecord, JobState
from serve_app.jobs.scheduler import Scheduler
from serve_app.jobs.webhooks import Webhooks
from serve_app.pipeline.page_cache import PageCache
from serve_app.storage import StoreUnavailable

log = logging.getLogger("ray.serve.jobs")

INTERVAL_S = 10.0


class Janitor:
    """Resumes what a killed process has left, and deletes what has expired: at the start, then every `interval_s` seconds."""

    def __init__(
        self,
        job_store: JobStore,
        idempotency_store: IdempotencyStore,
        cache: PageCache,
        scheduler: Scheduler,
        webhooks: Webhooks,
        locks: Locks,
        *,
        keep_s: float,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`locks` excludes other changes of a job, by its id. `keep_s`: how long the record of an expired job is kept."""
        self._job_store = job_store
        self._idempotency_store = idempotency_store
        self._cache = cache
        self._scheduler = scheduler
        self._webhooks = webhooks
        self._locks = locks
        self._keep_s = keep_s
        self._interval_s = interval_s
        self._failures: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._not_before: dict[str, datetime] = {}

    @property
    def failure(self) -> str | None:
        """Why the last search failed; None if it succeeded."""
        return next(iter(self._failures.values()), None)

    @property
    def unreadable(self) -> int:
        """Number of jobs whose records cannot be read."""
        return len(self._unreadable)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return coroutines to run in the background: two, so that a long sweep does not delay resuming."""
        return [self._repeat("resume", self.resume), self._repeat("sweep", self.sweep)]

    async def resume(self) -> None:
        """Resume all jobs and webhooks that have not ended. Raises StoreUnavailable."""
        for job_id in await self._job_store.active_ids():
            if job_id in self._scheduler:
                continue
            async with self._locks[job_id]:
                if (record := await self._record(job_id)) is not None:
                    await self._resume(record)
                elif job_id not in self._unreadable:
                    log.error("job %s: abandoned, since its record is lost; its other files remain in %s",
                              job_id, self._job_store.location(job_id))  # fmt: skip
                    await self._job_store.abandon(job_id)
        for job_id in await self._job_store.undelivered_ids():
            if not self._webhooks.is_delivering(job_id) and (record := await self._record(job_id)) is not None:
                self._webhooks.deliver(record)

    async def sweep(self) -> None:
        """Delete the results of jobs that have expired, and later their records too. Raises StoreUnavailable."""
        now = datetime.now(UTC)
        async for day, job_id in self._job_store.expiring(now):
            if self._not_before.get(job_id, now) > now:
                continue
            record = await self._record(job_id)
            if job_id in self._unreadable:
                continue
            if record is not None and (record.expires is None or record.expires > now):
                self._not_before[job_id] = record.expires or now + timedelta(hours=1)
                continue
            self._not_before.pop(job_id, None)
            if record is None or record.state.is_gone:
                await self._job_store.delete_all(job_id)
                await self._job_store.drop_expiry(day, job_id)
                continue
            log.info("job %s: expired; its results are deleted", job_id)
            until = now + timedelta(seconds=self._keep_s)
            expired = record.model_copy(update={"state": JobState.EXPIRED, "expires": until})
            async with self._locks[job_id]:
                await self._job_store.begin_purge(expired)
                await self._job_store.drop_expiry(day, job_id)
                await self._job_store.purge(expired)
        await self._idempotency_store.sweep(now)
        await self._cache.sweep(now)

    async def _repeat(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
                self._failures.pop(name, None)
            except StoreUnavailable as error:
                self._failures[name] = str(error)
                log.warning("cannot %s jobs, as the store is unavailable: %s", name, error)
            except Exception as error:  # a bug must not end this loop, and /health must report it
                self._failures[name] = f"cannot {name} jobs: {type(error).__name__}"
                log.exception("cannot %s jobs", name)
            await asyncio.sleep(self._interval_s)

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
