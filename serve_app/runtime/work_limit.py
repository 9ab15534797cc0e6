"""The time limit of a child process's work."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

LONGEST = 4.0
"""Longest work, in multiples of its limit, however busy the machine is."""

_NS = 1e-9


class WorkLimit:
    """Counts the time that a child works or waits for something, but not that in which it is ready and no CPU is free.

    So a document does not fail because the machine is busy with others. Only Linux tells that time; elsewhere all counts.
    The limit may span several children, one after another.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()
        self._pid: int | None = None
        # Seconds in line for a CPU: of earlier children, and of this one since `watch`.
        self._before = self._queued = 0.0
        self._queued_at_first = 0.0

    def watch(self, pid: int) -> None:
        """Count the work of this child from now on."""
        self._before += self._queued
        self._pid, self._queued, self._queued_at_first = pid, 0.0, _seconds_in_line(pid) or 0.0

    def left(self) -> float:
        """Return how long the work may go on at least, in seconds; 0 or less if its time is over."""
        if self._pid is not None and (in_line := _seconds_in_line(self._pid)) is not None:
            self._queued = in_line - self._queued_at_first
        passed = time.monotonic() - self._start
        return min(self.seconds - (passed - self._before - self._queued), LONGEST * self.seconds - passed)


def _seconds_in_line(pid: int) -> float | None:
    """Return how long the main thread of a process has been ready to run and did not; None if that is not known."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) * _NS
    return None
