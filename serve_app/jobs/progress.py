"""Tracks the progress of active jobs, and notifies those who wait for a change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve_app.document import ErrorInfo
from serve_app.jobs.record import JobRecord, JobState

PACE_WEIGHT = 0.2
"""Weight of the latest page in the average of seconds per page."""


@dataclass
class JobProgress:
    """One active job. `version` grows with each change; `pages` holds the finished ones, with the error of those that failed."""

    record: JobRecord
    version: int = 0
    pages: dict[int, ErrorInfo | None] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        self.version += 1
        self.changed.set()


@dataclass(frozen=True)
class JobView:
    """A job at one moment.

    `version` is greater in later views of the same Jobs replica. `position` in the queue counts from 1; `left_s`
    is an estimate in seconds. `pages` holds the finished pages, with the error of those that failed; it is None in a view
    made from the store, which has the pages themselves.
    """

    record: JobRecord
    version: int = 0
    position: int | None = None
    left_s: float | None = None
    pages: Mapping[int, ErrorInfo | None] | None = None


class ProgressBoard:
    """The progress of all active jobs of this replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs: dict[str, JobProgress] = {}
        self._pace = Pace(clock)

    def add(self, record: JobRecord) -> None:
        self._jobs[record.id] = JobProgress(record)

    def remove(self, job_id: str) -> None:
        """Remove a job, and wake those who wait for a change of it."""
        if (progress := self._jobs.pop(job_id, None)) is not None:
            progress.announce()

    def get(self, job_id: str) -> JobProgress | None:
        return self._jobs.get(job_id)

    async def wait_for_change(self, job_id: str, seen: int, wait_s: float) -> JobProgress | None:
        """Return a job's progress once its version is above `seen`, or after `wait_s`. None if it is not active."""
        progress = self._jobs.get(job_id)
        if progress is None:
            return None
        deadline = time.monotonic() + wait_s
        while progress.version <= seen and (left_s := deadline - time.monotonic()) > 0:
            progress.changed.clear()
            try:
                await asyncio.wait_for(progress.changed.wait(), left_s)
            except TimeoutError:
                break
        return progress if self._jobs.get(job_id) is progress else None

    def update(self, record: JobRecord, pages: Mapping[int, ErrorInfo | None]) -> None:
        """Record a change of an active job: its record, and the pages that have just finished."""
        progress = self._jobs[record.id]
        progress.record = record
        if pages:
            # Several pages at once were read earlier and are restored now.
            is_new_page = len(pages) == 1 and not pages.keys() & progress.pages.keys()
            if is_new_page and record.state is JobState.RUNNING:
                self._pace.add_page()
            else:
                self._pace.restart()
            progress.pages.update(pages)
        progress.announce()

    def restart_pace(self) -> None:
        """Call this when a job starts while none is running, so that idle time does not count as time per page."""
        self._pace.restart()

    def left_s(self, record: JobRecord, running: int) -> float | None:
        """Estimate the seconds until a job is done, if it shares the current pace with `running` jobs in all."""
        if record.total is None or self._pace.page_s is None:
            return None
        left = record.total - record.done - record.failed
        return round(left * self._pace.page_s * max(running, 1), 1)


class Pace:
    """Seconds per page, averaged over the last pages of all jobs. `page_s` is None before the first page."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.page_s: float | None = None
        self._clock = clock
        self._last_page = clock()

    def restart(self) -> None:
        self._last_page = self._clock()

    def add_page(self) -> None:
        """Count the time since the last page, or since `restart`, as that of one page."""
        now = self._clock()
        took = now - self._last_page
        self.page_s = took if self.page_s is None else (1 - PACE_WEIGHT) * self.page_s + PACE_WEIGHT * took
        self._last_page = now
