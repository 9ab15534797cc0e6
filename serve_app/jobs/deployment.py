"""Jobs: one replica that does what was promised, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ray.serve.handle import DeploymentHandle

from serve_app.document import ErrorInfo
from serve_app.fetching.sources import Sources
from serve_app.fetching.url_fetcher import Fetcher
from serve_app.jobs.idempotency_store import Claim, IdempotencyStore
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.record import JobRecord, JobState, Priority
from serve_app.jobs.runner import Runner
from serve_app.jobs.webhooks import Webhooks
from serve_app.pipeline.wiring import open_services
from serve_app.runtime.allocator import limit_arenas
from serve_app.settings import Secrets, Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links

log = logging.getLogger("ray.serve.jobs")

LOOK_S = 10.0
"""How often the store is asked for jobs of which nobody could tell us, and for those whose time is over."""

PACE_WEIGHT = 0.2


@dataclass
class _Work:
    """A job that is not at its end. `version` grows with each change; `pages` have come to theirs, some with an error."""

    record: JobRecord
    task: asyncio.Task[None] | None = None
    version: int = 0
    pages: dict[int, ErrorInfo | None] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class JobView:
    """A job as it is just now; `position` in the line counts from 1; `left_s` is an estimate.

    `pages` that have come to their end, some with an error, where that is known: the store knows of the others.
    """

    record: JobRecord
    version: int
    position: int | None
    left_s: float | None
    pages: Mapping[int, ErrorInfo | None] | None = None


@dataclass(frozen=True)
class JobsReport:
    """How many jobs there are of all owners; why the store cannot be used, if so; how many records cannot be read."""

    running: int
    waiting: int
    store_reason: str | None
    unreadable: int = 0


class Jobs:
    """Finds the jobs that are not done in the store when it starts, and does them with those that come.

    Of two that are alive for a moment each does the same work, and leaves what one would have left.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        secrets: Secrets,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        limit_arenas()
        self._limits = settings.jobs
        self._services = open_services(settings, secrets, rasterizer, recognizers)
        fetcher = partial(
            Fetcher, max_bytes=int(settings.jobs.body_mb * 1e6), allowed_networks=settings.allowed_private_networks
        )
        documents = fetcher(deadline_s=settings.limits.request_s)
        self._job_store = JobStore(self._services.store, self._services.documents.cache)
        self._idempotency_store = IdempotencyStore(self._services.store)
        self._runner = Runner(
            self._services.documents,
            self._job_store,
            Links(self._services.store, settings),
            Sources(settings, self._services.store, documents).fetch,
            settings,
            self._note_change,
        )
        secret = secrets.webhook_secret
        self._webhooks = Webhooks(
            self._job_store,
            fetcher(deadline_s=settings.limits.fetch_s).post,
            secret.get_secret_value() if secret is not None else None,
        )
        self._queue = JobQueue()
        self._work: dict[str, _Work] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._not_before: dict[str, datetime] = {}
        self._trouble: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._page_s: float | None = None
        self._last_page = time.monotonic()
        looks = (self._look_after(self._take_up_all), self._look_after(self._sweep))
        self._tasks = [asyncio.create_task(each) for each in (*self._services.watches(), *looks)]

    async def wake(self, record: JobRecord) -> None:
        """There is a new job in the store."""
        self._adopt(record)
        self._start_next()

    async def claim(self, owner: str, name: str, claim: Claim) -> Claim:
        """Of requests of the same name, the first one's; kept before it is told. Raises StoreUnavailable."""
        async with self._lock(f"claim {owner} {name}"):  # of two at once, one is the first
            before = await self._idempotency_store.get(owner, name)
            if before is None:
                await self._idempotency_store.put(owner, name, claim)
            return before or claim

    async def report(self) -> JobsReport:
        running = len(self._running())
        store_reason = self._services.store_monitor.reason or next(iter(self._trouble.values()), None)
        return JobsReport(running, len(self._work) - running, store_reason, len(self._unreadable))

    async def view(self, job_id: str, seen: int = -1, wait_s: float = 0) -> JobView | None:
        """The job, as soon as it is newer than `seen`, or after `wait_s`. None where it is not at work any more."""
        work = self._work.get(job_id)
        if work is None:
            return None
        deadline = time.monotonic() + wait_s
        while work.version <= seen and (left := deadline - time.monotonic()) > 0:
            work.changed.clear()
            try:
                await asyncio.wait_for(work.changed.wait(), left)
            except TimeoutError:
                break
        if self._work.get(job_id) is not work:
            return None
        order = self._queue.in_order() if work.task is None else []
        position = order.index(job_id) + 1 if job_id in order else None
        return JobView(work.record.model_copy(), work.version, position, self._left_s(work.record), dict(work.pages))

    async def end(self, job_id: str, state: JobState) -> JobRecord | None:
        """Cancel a job, or delete it; returns its record as it is then, None where it is gone already.

        A job that is at its end stays what it is when it is cancelled. Raises StoreUnavailable.
        """
        async with self._lock(job_id):
            try:
                record = await self._job_store.record(job_id)
            except (KeyError, ValueError):
                return None
            if record.state.is_gone:
                return None
            if state is JobState.CANCELLED and not record.state.is_active:
                return record
            if (work := self._work.get(job_id)) is not None:
                record = record.model_copy(update={"done": work.record.done, "failed": work.record.failed})
            ended = record.ended_as(state, keep_s=self._limits.keep_s)
            # Written first, so that nobody takes it up again.
            await (self._job_store.mark_gone(ended) if state.is_gone else self._job_store.save(ended))
            await self._stop(job_id)
            if state.is_gone:
                await self._job_store.clear(ended)
            else:
                await self._job_store.close(ended)
                self._webhooks.deliver(ended)
            return ended

    async def _stop(self, job_id: str) -> None:
        """On return nothing of a job is worked on, and nothing written."""
        await self._webhooks.stop(job_id)
        work = self._work.pop(job_id, None)
        self._queue.remove(job_id)
        if work is not None:
            if work.task is not None:
                work.task.cancel()
                await asyncio.wait({work.task})
            work.version += 1
            work.changed.set()  # who waits for news is told by the store
        self._start_next()

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _look_after(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
                self._trouble.pop(look.__name__, None)
            except StoreUnavailable as error:
                self._trouble[look.__name__] = str(error)
                log.warning("jobs in the store cannot be looked after now: %s", error)
            except Exception as error:  # whatever it is, the next look comes, and /health tells of it
                self._trouble[look.__name__] = f"jobs were not looked after: {type(error).__name__}"
                log.exception("jobs in the store were not looked after")
            await asyncio.sleep(LOOK_S)

    async def _take_up_all(self) -> None:
        for job_id in await self._job_store.active():
            if job_id in self._work:
                continue
            async with self._lock(job_id):
                if (record := await self._record(job_id)) is not None:
                    await self._take_up(record)
                elif job_id not in self._unreadable:
                    log.error("job %s is given up: its record is lost; what else there is of it stays in %s",
                              job_id, self._job_store.place(job_id))  # fmt: skip
                    await self._job_store.give_up(job_id)
            self._start_next()
        for job_id in await self._job_store.to_deliver():
            if not self._webhooks.is_delivering(job_id) and (record := await self._record(job_id)) is not None:
                self._webhooks.deliver(record)

    async def _record(self, job_id: str) -> JobRecord | None:
        """A job that an index names. One that cannot be read does not keep others from being looked after."""
        try:
            record = await self._job_store.record(job_id)
            self._unreadable.discard(job_id)
            return record
        except KeyError:
            self._unreadable.discard(job_id)
        except ValueError as error:
            if job_id not in self._unreadable:
                log.error(
                    "job %s: %s/job.json cannot be read (%s). Put a copy in its place; or delete that folder and "
                    "jobs/active/%s, and the job with them", job_id, self._job_store.place(job_id), _first_line(error), job_id
                )  # fmt: skip
            self._unreadable.add(job_id)
        return None

    async def _take_up(self, record: JobRecord) -> None:
        """Go on with a job where somebody was killed: with its work, or with what is done at its end."""
        if record.state.is_active:
            self._adopt(record)
        elif record.state.is_gone:
            await self._job_store.clear(record)
        else:
            await self._job_store.put_away(record)

    async def _sweep(self) -> None:
        """Delete what has had its time. A job that expires leaves its record for as long again, to tell of it."""
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
                await self._job_store.remove(job_id)
                await self._job_store.forget(day, job_id)
                continue
            log.info("job %s: its results are deleted, as their time is over", job_id)
            until = now + timedelta(seconds=self._limits.keep_s)
            expired = record.model_copy(update={"state": JobState.EXPIRED, "expires": until})
            async with self._lock(job_id):
                await self._job_store.mark_gone(expired)
                await self._job_store.forget(day, job_id)
                await self._job_store.clear(expired)
        await self._idempotency_store.sweep(now)
        await self._services.documents.cache.sweep(now)

    def _adopt(self, record: JobRecord) -> None:
        if record.id not in self._work and record.state.is_active:
            self._work[record.id] = _Work(record)
            self._queue.add(record.id, record.owner, record.priority)

    def _start_next(self) -> None:
        while (job_id := self._next()) is not None:
            if not self._running():
                self._last_page = time.monotonic()  # what was before is no pace
            work = self._work[job_id]
            work.task = asyncio.create_task(self._runner.run(work.record))
            work.task.add_done_callback(partial(self._ended, job_id))

    def _next(self) -> str | None:
        """Who may begin now. One owner's jobs, or bulk ones, do not keep another's interactive job waiting."""
        running = self._running()
        if len(running) < self._limits.in_flight:
            return self._queue.take()
        if len(running) >= 2 * self._limits.in_flight:
            return None
        return self._queue.take_interactive(
            but_of={record.owner for record in running if record.priority is Priority.INTERACTIVE}
        )

    def _running(self) -> list[JobRecord]:
        return [work.record for work in self._work.values() if work.task is not None]

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("job %s stopped and is taken up again", job_id, exc_info=error)
        self._work.pop(job_id, None)
        self._start_next()

    def _note_change(self, record: JobRecord, pages: Mapping[int, ErrorInfo | None]) -> None:
        work = self._work.get(record.id)
        if work is None:
            return
        work.record = record
        if not record.state.is_active:
            self._webhooks.deliver(record)
        now = time.monotonic()
        if record.state is JobState.RUNNING and len(pages) == 1 and not pages.keys() & work.pages.keys():
            took = now - self._last_page
            self._page_s = took if self._page_s is None else (1 - PACE_WEIGHT) * self._page_s + PACE_WEIGHT * took
        if pages:
            self._last_page = now
            work.pages.update(pages)
        work.version += 1
        work.changed.set()

    def _left_s(self, record: JobRecord) -> float | None:
        """At the pace of the last pages of all jobs that are worked on, which share it."""
        if self._page_s is None or record.total is None:
            return None
        left = record.total - record.done - record.failed
        return round(left * self._page_s * max(len(self._running()), 1), 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
