"""Which job is next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container

from serve_app.jobs.record import Priority

BULK_TURN = 4
"""Every so manieth job is a bulk one where both kinds wait, so that these do not wait for ever."""


class JobQueue:
    """Jobs that wait, by priority; within one, owners take turns, and an owner's jobs are done in their order."""

    def __init__(self) -> None:
        self._waiting: dict[Priority, OrderedDict[str, deque[str]]] = {each: OrderedDict() for each in Priority}
        self._taken = 0

    def __len__(self) -> int:
        return len(self.in_order())

    def add(self, job_id: str, owner: str, priority: Priority) -> None:
        self._waiting[priority].setdefault(owner, deque()).append(job_id)

    def remove(self, job_id: str) -> None:
        """Where it waits; else nothing happens."""
        for owners in self._waiting.values():
            for owner, jobs in list(owners.items()):
                if job_id in jobs:
                    jobs.remove(job_id)
                    if not jobs:
                        del owners[owner]

    def take(self) -> str | None:
        """The next one, or None where nobody waits."""
        self._taken += 1
        first, second = Priority.INTERACTIVE, Priority.BULK
        if self._taken % BULK_TURN == 0:
            first, second = second, first
        owners = self._waiting[first] or self._waiting[second]
        if not owners:
            return None
        return _taken_from(owners, next(iter(owners)))

    def take_interactive(self, *, but_of: Container[str]) -> str | None:
        """The next interactive one that is none of these owners'."""
        owners = self._waiting[Priority.INTERACTIVE]
        owner = next((owner for owner in owners if owner not in but_of), None)
        return None if owner is None else _taken_from(owners, owner)

    def in_order(self) -> list[str]:
        """All that wait, about as they will be taken: turns of owners, interactive ones first."""
        order: list[str] = []
        for owners in (self._waiting[priority] for priority in Priority):
            turns = [list(jobs) for jobs in owners.values()]
            for turn in range(max(map(len, turns), default=0)):
                order += [jobs[turn] for jobs in turns if turn < len(jobs)]
        return order


def _taken_from(owners: OrderedDict[str, deque[str]], owner: str) -> str:
    jobs = owners.pop(owner)
    job_id = jobs.popleft()
    if jobs:
        owners[owner] = jobs  # behind the others
    return job_id
