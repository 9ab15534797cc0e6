"""The queue of jobs that wait to run: by priority, and fair between owners."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container

from serve_app.jobs.record import Priority

BULK_TURN = 4
"""Every fourth job comes from the bulk queue while both queues are non-empty, so that bulk jobs never starve."""


class JobQueue:
    """Job ids by priority. Within a priority owners take turns, and each owner's jobs stay in their order."""

    def __init__(self) -> None:
        self._waiting: dict[Priority, OrderedDict[str, deque[str]]] = {each: OrderedDict() for each in Priority}
        self._popped = 0
        self._positions: dict[str, int] | None = None

    def add(self, job_id: str, owner: str, priority: Priority) -> None:
        self._positions = None
        self._waiting[priority].setdefault(owner, deque()).append(job_id)

    def remove(self, job_id: str) -> None:
        """Remove a job; does nothing if it is not in the queue."""
        self._positions = None
        for owners in self._waiting.values():
            for owner, jobs in list(owners.items()):
                if job_id in jobs:
                    jobs.remove(job_id)
                    if not jobs:
                        del owners[owner]

    def pop(self, may_start: Callable[[str], bool] = lambda job_id: True) -> str | None:
        """Remove and return the next job that `may_start`, or None if there is none."""
        self._popped += 1
        first, second = Priority.INTERACTIVE, Priority.BULK
        if self._popped % BULK_TURN == 0:
            first, second = second, first
        for owners in (self._waiting[first], self._waiting[second]):
            for owner, jobs in owners.items():
                job_id = next(filter(may_start, jobs), None)
                if job_id is not None:
                    self._take(owners, owner, job_id)
                    return job_id
        return None

    def pop_interactive(self, *, exclude_owners: Container[str]) -> str | None:
        """Remove and return the next interactive job of any other owner, or None if there is none."""
        owners = self._waiting[Priority.INTERACTIVE]
        owner = next((owner for owner in owners if owner not in exclude_owners), None)
        if owner is None:
            return None
        job_id = owners[owner][0]
        self._take(owners, owner, job_id)
        return job_id

    def position(self, job_id: str) -> int | None:
        """Return the place of a job in `in_order`, from 1; None if it is not in the queue."""
        if self._positions is None:
            self._positions = {each: place for place, each in enumerate(self.in_order(), 1)}
        return self._positions.get(job_id)

    def in_order(self) -> list[str]:
        """Return all jobs, roughly in the order in which they will be popped: owners in turn, interactive jobs first."""
        order: list[str] = []
        for owners in (self._waiting[priority] for priority in Priority):
            turns = [iter(jobs) for jobs in owners.values()]
            while turns:
                # An owner without another job is out, so that one with thousands costs no more for the others.
                jobs = [(turn, job_id) for turn in turns if (job_id := next(turn, None)) is not None]
                order += [job_id for _, job_id in jobs]
                turns = [turn for turn, _ in jobs]
        return order

    def _take(self, owners: OrderedDict[str, deque[str]], owner: str, job_id: str) -> None:
        self._positions = None
        jobs = owners.pop(owner)
        jobs.remove(job_id)
        if jobs:
            owners[owner] = jobs  # behind the others
