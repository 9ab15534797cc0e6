"""The Jobs deployment: its replicas share the jobs, and finish every accepted one, also after crashes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.document import ErrorInfo
from serve_app.fetching.sources import Sources
from serve_app.fetching.url_fetcher import Fetcher
from serve_app.jobs.holders import BEAT_S, Holders
from serve_app.jobs.idempotency_store import Claim, IdempotencyStore
from serve_app.jobs.janitor import INTERVAL_S, Janitor
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.leases import Leases
from serve_app.jobs.locks import Locks
from serve_app.jobs.progress import JobView, ProgressBoard
from serve_app.jobs.record import JobRecord, JobState
from serve_app.jobs.result_writer import ResultWriterFactory
from serve_app.jobs.runner import Runner, log_end
from serve_app.jobs.scheduler import Scheduler
from serve_app.jobs.webhooks import Webhooks
from serve_app.metrics.catalogue import JOBS_ENDED
from serve_app.pipeline.wiring import FileSharing, open_services
from serve_app.runtime.allocator import limit_arenas
from serve_app.runtime.serve_log import set_up_log
from serve_app.settings import Secrets, Settings
from serve_app.storage import StoreUnavailable
from serve_app.storage.links import Links

log = logging.getLogger("ray.serve.jobs")

SETTLING_S = 10.0
"""Seconds after another replica came or went in which calls about one key may still reach two replicas."""

SETTLED_S = 0.5
"""Seconds until a claim is read back while replicas come or go: longer than the other one's write takes."""

LEAVE_S = 1.5
"""Seconds that a stopping replica waits for the writes of its jobs."""


class Elsewhere(Enum):
    """The response of a replica to a call that others should answer."""

    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Possession:
    """Whether a replica, by its id among the holders, has a job."""

    holder: str
    has: bool


@dataclass(frozen=True)
class JobsReport:
    """Number of jobs of all owners at all replicas, and of unreadable records; `store_reason` is why the store cannot be
    used, if so.
    """

    running: int
    waiting: int
    store_reason: str | None
    unreadable: int = 0


class Jobs:
    """Runs the jobs in the store that this replica has leases of: those it finds there when it starts, and new ones.

    If two replicas have the same job for a while, both do the same work and leave the same result.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        secrets: Secrets,
        rasterizer: DeploymentHandle[Any],
        recognizers: Mapping[str, DeploymentHandle[Any]],
        result_writers: Mapping[str, ResultWriterFactory],
        sharing: FileSharing | None = None,
        *,
        janitor_interval_s: float = INTERVAL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        """`result_writers` make the results of dialects, by their names in job records.

        Every `janitor_interval_s` seconds it looks through the store for jobs to resume and results to delete. With other
        replicas, it renews its leases every `beat_s` seconds.
        """
        limit_arenas()
        set_up_log()
        self._services = services = open_services(
            settings,
            secrets,
            rasterizer,
            recognizers,
            sharing,
            in_line=lambda engine: self._scheduler.pages_in_line(engine),
        )
        self._keep_s = settings.jobs.keep_s
        self._job_store = JobStore(services.store, services.documents.cache, services.writes)
        self._idempotency_store = IdempotencyStore(services.store)
        self._holders = Holders(services.store, beat_s=beat_s)
        self._leases = Leases(services.store, self._holders, alone=settings.jobs.replicas == 1, beat_s=beat_s)
        self._locks = Locks()
        self._board = ProgressBoard()
        fetcher = partial(
            Fetcher, max_bytes=int(settings.jobs.body_mb * 1e6), allowed_networks=settings.allowed_private_networks
        )
        documents = fetcher(deadline_s=settings.limits.request_s)
        links = Links(services.store, settings)
        runner = Runner(
            services.documents,
            self._job_store,
            {name: make(settings, services.documents, links) for name, make in result_writers.items()},
            Sources(settings, services.store, documents).fetch,
            settings.jobs,
            self._note_change,
        )
        self._scheduler = Scheduler(
            runner.run,
            self._board,
            in_flight=settings.jobs.in_flight,
            capacity=services.documents.pipeline.capacity,
            documents=lambda: services.documents.pipeline.most_documents,
        )
        secret = secrets.webhook_secret
        self._webhooks = Webhooks(
            self._job_store,
            fetcher(deadline_s=settings.limits.fetch_s).post,
            secret.get_secret_value() if secret is not None else None,
        )
        self._janitor = Janitor(
            self._job_store,
            self._idempotency_store,
            services.documents.cache,
            self._scheduler,
            self._webhooks,
            self._leases,
            self._locks,
            keep_s=self._keep_s,
            interval_s=janitor_interval_s,
            beat_s=beat_s,
        )
        watches = services.watches(self._job_store.is_page_of_gone_job)
        self._tasks = [asyncio.create_task(each) for each in (*watches, *self._janitor.loops())]

    async def __del__(self) -> None:
        """Stop, and leave the jobs to the other replicas. Serve awaits this when it stops the replica."""
        for task in self._tasks:
            task.cancel()
        if self._leases.is_alone:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._scheduler.stop_all()
                await self._holders.leave()
        except (TimeoutError, StoreUnavailable):
            log.warning("stopped without a word to the other replicas; they take over the jobs in some seconds")

    async def wake(self, record: JobRecord) -> None:
        """Queue a job that has just been stored. It starts at once if there is a slot."""
        async with self._locks[record.id]:
            try:
                await self._leases.take(record.id)
            except StoreUnavailable as error:
                log.warning("job %s: cannot be leased, and starts later: %s", record.id, error)
                return
            self._scheduler.add(record)

    async def claim(self, owner: str, name: str, claim: Claim) -> Claim | StoreUnavailable:
        """Claim an Idempotency-Key. Return the valid claim: an earlier one, or this one after it has been stored.

        Calls about one key come to one replica, unless replicas have just come or gone. Returns StoreUnavailable as a value
        (see errors.py).
        """
        try:
            async with self._locks[f"claim {owner} {name}"]:
                if (earlier := await self._earlier_claim(owner, name)) is not None:
                    return earlier
                await self._idempotency_store.put(owner, name, claim)
                if self._leases.is_alone or self._holders.unchanged_s > SETTLING_S:
                    return claim
                await asyncio.sleep(SETTLED_S)
                return await self._idempotency_store.get(owner, name) or claim
        except StoreUnavailable as error:
            return error

    async def _earlier_claim(self, owner: str, name: str) -> Claim | None:
        """Return the valid claim. That of a request which died once its job was stored is made valid again."""
        claim, now = await self._idempotency_store.last(owner, name), time.time()
        if claim is None or claim.is_valid(now):
            return claim
        committed = replace(claim, until=None)
        if not committed.is_valid(now) or not await self._job_store.is_submitted(claim.id):
            return None
        await self._idempotency_store.put(owner, name, committed)
        return committed

    async def report(self) -> JobsReport:
        """Return the numbers of this replica, and those of the others at their last beats."""
        store_reason = self._services.store_monitor.reason or self._janitor.failure
        jobs = self._janitor.counts + self._holders.counts_of_others
        return JobsReport(jobs.running, jobs.waiting, store_reason, jobs.unreadable)

    async def view(self, job_id: str, seen: int = -1, wait_s: float = 0) -> JobView | None:
        """Return a job once its version is above `seen`, or after `wait_s`; None if it is not active here."""
        progress = await self._board.wait_for_change(job_id, seen, wait_s)
        if progress is None:
            return None
        position = self._scheduler.position(job_id)
        left_s = self._board.left_s(progress.record, self._scheduler.running)
        return JobView(progress.record.model_copy(), progress.version, position, left_s, dict(progress.pages))

    async def has(self, job_id: str) -> Possession:
        """Return whether this replica has a job. Responds at once."""
        return Possession(self._holders.me, self._leases.holds(job_id))

    async def end(
        self, job_id: str, state: JobState, at: frozenset[str]
    ) -> JobRecord | Elsewhere | StoreUnavailable | None:
        """Cancel or delete a job, whether this replica has it or not, if it is among those that should do so, `at`.

        Return its record, or None if it was deleted already. Cancelling a job that has ended changes nothing. Returns
        StoreUnavailable as a value (see errors.py).
        """
        if self._holders.me not in at:
            return Elsewhere.ELSEWHERE
        try:
            return await self._end(job_id, state)
        except StoreUnavailable as error:
            return error

    async def _end(self, job_id: str, state: JobState) -> JobRecord | None:
        async with self._locks[job_id]:
            try:
                record = await self._job_store.record(job_id)
            except (KeyError, ValueError):
                return None
            if record.state.is_gone:
                return None
            if state is JobState.CANCELLED and not record.state.is_active:
                return record
            if (progress := self._board.get(job_id)) is not None:
                record = record.model_copy(update={"done": progress.record.done, "failed": progress.record.failed})
            elif state is JobState.CANCELLED:  # the one who has it, if there is one, does not respond
                record = record.model_copy(update={"done": len(await self._job_store.page_numbers(job_id))})
            ended = record.ended_as(state, keep_s=self._keep_s)
            # Stored before the work is stopped: a replica that is started meanwhile must not resume it.
            await (self._job_store.begin_purge(ended) if state.is_gone else self._job_store.save(ended))
            if record.state.is_active:
                JOBS_ENDED.inc(state=state, reason="")
                log_end(ended)
            await self._webhooks.stop(job_id)
            await self._scheduler.stop(job_id)
            await self._leases.end_others(job_id)
            if state.is_gone:
                await self._job_store.purge(ended)
            else:
                await self._leases.take(job_id)
                await self._job_store.finish(ended)
                self._webhooks.deliver(ended)
            return ended

    def _note_change(self, record: JobRecord, pages: Mapping[int, ErrorInfo | None]) -> None:
        if record.id not in self._scheduler:  # it has just been stopped
            return
        self._board.update(record, pages)
        if not record.state.is_active:
            self._webhooks.deliver(record)
        self._scheduler.start_next()
