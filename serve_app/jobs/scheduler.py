"""Which jobs run now, and which come next."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any

from serve_app.jobs.progress import ProgressBoard
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.record import JobRecord, Priority

log = logging.getLogger("ray.serve.jobs")


LEAST_IN_FLIGHT = 4
"""Jobs that run at once at least, so that a long one does not hold up the others."""


class Scheduler:
    """Runs up to `in_flight` jobs at once, of any kind. All active jobs are on `board`.

    Without that limit it runs as many as keep the engines busy: the next one starts while the pages that are left of the
    running ones for its engine are fewer than the engine's `capacity`, and LEAST_IN_FLIGHT run in any case.

    Up to twice as many run so that no owner waits behind others: interactive jobs of owners who have no interactive job
    running.
    """

    def __init__(
        self,
        run: Callable[[JobRecord], Coroutine[Any, Any, None]],
        board: ProgressBoard,
        *,
        in_flight: int | None,
        capacity: Callable[[str], int] = lambda engine: 0,
        documents: Callable[[], int] = lambda: LEAST_IN_FLIGHT,
    ) -> None:
        """`capacity`: pages that an engine can take from here now. `documents`: how many may be in progress here."""
        self._run = run
        self._board = board
        self._follows_capacity = in_flight is None
        self._in_flight = in_flight or LEAST_IN_FLIGHT
        self._capacity = capacity
        self._documents = documents
        self._counted: dict[str, int] = {}  # pages of each waiting job, as they are in `_pages_in_line`
        self._pages_in_line: Counter[str] = Counter()
        self._queue = JobQueue()
        self._records: dict[str, JobRecord] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, job_id: object) -> bool:
        """Whether a job is queued or running."""
        return job_id in self._records

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._records) - len(self._tasks)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest job here was submitted; None if there is none."""
        return min((record.created for record in self._records.values()), default=None)

    @property
    def free(self) -> int:
        """How many more jobs would start at once, or soon: where there is room for one, there may be for several."""
        if not self.waiting and all(self._has_room(self._engine(job_id)) for job_id in self._tasks):
            return self._in_flight
        return max(0, self._in_flight - len(self._records))

    @property
    def in_line(self) -> list[str]:
        """The jobs that wait, roughly in the order in which they will start."""
        return self._queue.in_order()

    def pages_in_line(self, engine: str) -> int:
        """The pages of all waiting jobs for this engine; a job whose pages are not counted yet has one."""
        return self._pages_in_line[engine]

    def position(self, job_id: str) -> int | None:
        """Return a job's position in the queue, from 1; None if it is not in the queue."""
        if job_id in self._tasks or job_id not in self._records:
            return None
        return self._queue.position(job_id)

    def add(self, record: JobRecord) -> None:
        """Queue a job, and start it if there is a slot. Does nothing if it is here already, or has ended."""
        if record.id in self._records or not record.state.is_active:
            return
        self._records[record.id] = record
        self._queue.add(record.id, record.owner, record.priority)
        self._board.add(record)
        self._enter_line(record)
        self.start_next()

    async def stop(self, job_id: str) -> None:
        """Remove a job. On return its task has ended, so it writes nothing any more."""
        task = self._tasks.pop(job_id, None)
        self._queue.remove(job_id)
        if (record := self._records.pop(job_id, None)) is not None:
            self._leave_line(record)
        self._board.remove(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self.start_next()

    async def stop_all(self) -> None:
        """Stop all jobs, and start none of those that wait."""
        self._in_flight, self._follows_capacity = 0, False
        await asyncio.gather(*(self.stop(job_id) for job_id in list(self._records)))

    def start_next(self) -> None:
        """Start the next jobs for which there is room. Call it when pages of a running job are done."""
        while self.waiting and (job_id := self._next()) is not None:
            if not self._tasks:
                self._board.restart_pace()
            record = self._records[job_id]
            self._leave_line(record)
            task = asyncio.create_task(self._run(record))
            self._tasks[job_id] = task
            task.add_done_callback(partial(self._on_task_end, job_id))

    def _next(self) -> str | None:
        if len(self._tasks) < self._in_flight:
            return self._queue.pop()
        with_room = {engine for engine, pages in self._pages_in_line.items() if pages and self._has_room(engine)}
        if with_room:
            return self._queue.pop(lambda job_id: self._engine(job_id) in with_room)
        if len(self._tasks) >= 2 * self._in_flight:
            return None
        running = [self._records[job_id] for job_id in self._tasks]
        return self._queue.pop_interactive(
            exclude_owners={record.owner for record in running if record.priority is Priority.INTERACTIVE}
        )

    def _has_room(self, engine: str) -> bool:
        """Whether this engine can take more pages than the running jobs have left for it."""
        if not self._follows_capacity or len(self._tasks) >= self._documents():
            return False
        capacity = self._capacity(engine)
        # A job whose pages are not counted yet may be long: only a few of them are opened at once.
        uncounted = capacity // LEAST_IN_FLIGHT
        left = (_pages_left(self._records[job_id]) for job_id in self._tasks if self._engine(job_id) == engine)
        # A job whose pages are done still has to be stored: it counts as one page.
        return sum(max(1, uncounted if pages is None else pages) for pages in left) < capacity

    def _engine(self, job_id: str) -> str:
        return self._records[job_id].request.engine

    def _enter_line(self, record: JobRecord) -> None:
        self._counted[record.id] = pages = _pages_left(record) or 1
        self._pages_in_line[record.request.engine] += pages

    def _leave_line(self, record: JobRecord) -> None:
        self._pages_in_line[record.request.engine] -= self._counted.pop(record.id, 0)

    def _on_task_end(self, job_id: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # by `stop`, which does the rest
            return
        if (error := task.exception()) is not None:
            log.error("job %s stopped unexpectedly and will be resumed", job_id, exc_info=error)
        self._tasks.pop(job_id, None)
        self._records.pop(job_id, None)
        self._board.remove(job_id)
        self.start_next()


def _pages_left(record: JobRecord) -> int | None:
    """Count the pages of a job that are neither done nor given up, as far as is known; None if it was not opened yet."""
    return None if record.total is None else record.total - record.done - record.failed
