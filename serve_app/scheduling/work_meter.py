"""Measures for the autoscaler what a replica does: the pages that wait for it, how busy it is, and how long a page takes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Pages over which the work for a page is averaged: enough to even out single pages, few enough to follow a change of documents.
PAGES_REMEMBERED = 32


class BusyClock:
    """Counts the seconds for which a worker works. One thread starts and stops it; any thread reads it."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.monotonic()

    def stop(self) -> None:
        since, self._since = self._since, None
        if since is not None:
            self._total_s += time.monotonic() - since

    @property
    def busy_s(self) -> float:
        """Seconds for which the current work has been running; 0 when idle."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def worked_s(self) -> float:
        """Seconds worked so far, with the current work."""
        return self._total_s + self.busy_s


class WorkMeter:
    """Measures the pages of one replica. `report` is what `PageScaling` (page_scaling.py) reads.

    `worked_s` returns the seconds for which the whole replica has worked so far. A replica that reads `at_once` pages in
    parallel has worked one second when all of its threads have.
    """

    def __init__(self, worked_s: Callable[[], float], *, at_once: int = 1) -> None:
        self._worked_s = worked_s
        self._at_once = at_once
        self._held = 0
        self._pages = 0.0
        self._done = 0
        self.started(0.0)

    @contextmanager
    def page(self, behind: float = 0.0) -> Iterator[None]:
        """Count a page while the replica holds it. `behind` is the number of pages that wait at its caller for it."""
        weight = 1.0 + behind
        self._count_held_until(time.monotonic())
        self._held += 1
        self._pages += weight
        try:
            yield
        finally:
            self._count_held_until(time.monotonic())
            self._held -= 1
            # Rounding may leave more than 0 of the sum. To the autoscaler that is a page, for which the last replica stays.
            self._pages = self._pages - weight if self._held else 0.0

    def done(self) -> None:
        """Count a page on which the replica has worked, also if it failed."""
        self._done += 1

    def started(self, start_s: float) -> None:
        """The replica has loaded what it needs, in `start_s` seconds, which are not work on pages."""
        self.start_s = start_s
        self._at = self._counted_at = time.monotonic()
        self._reported_s = self._worked_s()
        self._remembered_s = self._reported_s
        self._held_page_s = self._recent_s = self._recent_pages = 0.0

    def measure_page_s(self) -> float:
        """Add the work since the last call, and return the seconds that a page takes, over the last PAGES_REMEMBERED or so.

        0 while unknown.
        """
        # A clock that another thread is stopping lags behind for a moment.
        worked_s = max(self._worked_s(), self._remembered_s)
        done, self._done = self._done, 0
        forget = (1 - 1 / PAGES_REMEMBERED) ** done
        self._recent_s = self._recent_s * forget + worked_s - self._remembered_s
        self._recent_pages = self._recent_pages * forget + done
        self._remembered_s = worked_s
        # Work on the first page counts before the page is done: it takes at least that long.
        return self._recent_s / max(self._recent_pages, 1.0)

    def report(self) -> dict[str, float]:
        """Return the measurements since the last report.

        `pages`: those held here and those behind them, now; `mean_pages`: the same on average. `busy`: the share of the time
        worked, 0 to 1. `page_s`: seconds of work that a page takes, 0 while unknown. `at_once`: pages read in parallel.
        `start_s`: seconds of loading.
        """
        now, page_s, worked_s = time.monotonic(), self.measure_page_s(), self._remembered_s
        elapsed_s, work_s = max(now - self._at, 1e-6), worked_s - self._reported_s
        self._at, self._reported_s = now, worked_s
        self._count_held_until(now)
        held_page_s, self._held_page_s = self._held_page_s, 0.0
        return {
            "pages": self._pages,
            "mean_pages": held_page_s / elapsed_s,
            "busy": min(1.0, work_s / elapsed_s),
            "page_s": page_s,
            "at_once": float(self._at_once),
            "start_s": self.start_s,
        }

    def _count_held_until(self, now: float) -> None:
        """Add the pages since the last change of their number, times its seconds."""
        self._held_page_s += self._pages * (now - self._counted_at)
        self._counted_at = now
