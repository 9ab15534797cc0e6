"""Which jobs run now, and which come next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from serve_app.jobs.progress import ProgressBoard
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.record import JobRecord, Priority

log = logging.getLogger("ray.serve.jobs")


class Scheduler:
    """Runs up to `in_flight` jobs at once, of any kind. All active jobs are on `board`.

    Up to as many again run so that no owner waits behind others: interactive jobs of owners who have no interactive job
    running.
    """

    def __init__(
        self, run: Callable[[JobRecord], Coroutine[Any, Any, None]], board: ProgressBoard, *, in_flight: int
    ) -> None:
        self._run = run
        self._board = board
        self._in_flight = in_flight
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
    def free(self) -> int:
        """How many more jobs would start at once."""
        return max(0, self._in_flight - len(self._records))

    @property
    def in_line(self) -> list[str]:
        """The jobs that wait, roughly in the order in which they will start."""
        return self._queue.in_order()

    def position(self, job_id: str) -> int | None:
        """Return a job's position in the queue, from 1; None if it is not in the queue."""
        if job_id in self._tasks or job_id not in self._records:
            return None
        return self.in_line.index(job_id) + 1

    def add(self, record: JobRecord) -> None:
        """Queue a job, and start it if there is a slot. Does nothing if it is here already, or has ended."""
        if record.id in self._records or not record.state.is_active:
            return
        self._records[record.id] = record
        self._queue.add(record.id, record.owner, record.priority)
        self._board.add(record)
        self._start_next()

    async def stop(self, job_id: str) -> None:
        """Remove a job. On return its task has ended, so it writes nothing any more."""
        task = self._tasks.pop(job_id, None)
        self._queue.remove(job_id)
        self._records.pop(job_id, None)
        self._board.remove(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._start_next()

    async def stop_all(self) -> None:
        """Stop all jobs, and start none of those that wait."""
        self._in_flight = 0
        await asyncio.gather(*(self.stop(job_id) for job_id in list(self._records)))

    def _start_next(self) -> None:
        while (job_id := self._next()) is not None:
            if not self._tasks:
                self._board.restart_pace()
            task = asyncio.create_task(self._run(self._records[job_id]))
            self._tasks[job_id] = task
            task.add_done_callback(partial(self._on_task_end, job_id))

    def _next(self) -> str | None:
        if len(self._tasks) < self._in_flight:
            return self._queue.pop()
        if len(self._tasks) >= 2 * self._in_flight:
            return None
        running = [self._records[job_id] for job_id in self._tasks]
        return self._queue.pop_interactive(
            exclude_owners={record.owner for record in running if record.priority is Priority.INTERACTIVE}
        )

    def _on_task_end(self, job_id: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # by `stop`, which does the rest
            return
        if (error := task.exception()) is not None:
            log.error("job %s stopped unexpectedly and will be resumed", job_id, exc_info=error)
        self._tasks.pop(job_id, None)
        self._records.pop(job_id, None)
        self._board.remove(job_id)
        self._start_next()
