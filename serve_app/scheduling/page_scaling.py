"""The autoscaling policy: how many replicas the pages need that wait and run now.

Serve's controller runs it, several times a second. Serve pickles this module by value, so it imports nothing of this package.
`tests/components/test_page_scaling.py` simulates it within Serve's own autoscaler, and shows what each part is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_high
from typing import Any

# Share of the time of all replicas. Below it, a replica is spare; above it, pages that arrive at random begin to wait.
BUSY_SHARE = 0.7
# Above it, rasterizers may be what engines wait for. Well above BUSY_SHARE, or chance would start and stop replicas.
FULL_SHARE = 0.9
# A replica is worth its start if it then finds work for this many times as long as the start takes.
WORK_PER_START = 2.0
# Growth counts if it has lasted for this many spans of this many seconds.
SPANS, SPAN_S = 3, 5.0
# Seconds for which replicas stay that had pages to read at once. The pages of a steady load vary, so a shorter time would stop
# and start replicas again and again.
PEAK_S = 120.0
# Replicas report at different times, so the sum of their means may be this much above the pages that there were.
REPORTS_DIFFER = 0.2
# Replicas that were ordered longer ago than this many starts, and this many seconds, are not coming: there is no room.
LATE_STARTS, LATE_S = 2.0, 60.0
# A first replica may take this long to come, with a node that is added for it. Those who wait for it meanwhile give up and come back.
FIRST_REPLICA_S = 1200.0


@dataclass(frozen=True)
class Load:
    """The load of a deployment, as far as it is known. Counts of replicas may be fractions: `busy` of 2.5 is the work of two and a half."""

    pages: float
    """Pages that wait or are being read, wherever they are."""
    peak_pages: float
    """The highest that the mean of `pages` over the look-back period has been in the last PEAK_S seconds."""
    growth: float
    """Pages by which `pages` has grown each second, all the time lately (see Growth); negative if it has fallen at some time."""
    page_s: float
    """Seconds for which a page keeps a replica busy."""
    at_once: float
    """Pages that a replica reads in parallel."""
    start_s: float
    """Seconds that a new replica needs before it can read."""
    busy: float
    """Replicas that work, on average."""
    running: int
    target: int
    """Replicas that are running or ordered."""
    ordered_ago_s: float
    """Seconds since replicas were last ordered."""


def desired_replicas(load: Load, target_wait_s: float, *, feeds_engines: bool = False) -> float:
    """Return how many replicas let a page wait no longer than about `target_wait_s`. 0 only without work.

    `feeds_engines`: see PageScaling.
    """
    if load.pages <= 0 and load.busy <= 0:
        is_first_starting = load.running == 0 < load.target and load.ordered_ago_s < FIRST_REPLICA_S
        return 1.0 if is_first_starting else 0.0
    # Work is in seconds of one replica. `arriving` is per second: the replicas that keep up with what arrives.
    arriving = max(0.0, load.busy + load.growth * load.page_s)
    # A new replica meets the work that is there when it has started, not the work that is there now.
    ahead = max(0.0, load.pages * load.page_s + load.growth * load.page_s * load.start_s - _taken_by_ordered(load))
    wanted = min(load.pages / load.at_once, ahead / target_wait_s)
    if load.start_s > 0:
        # Otherwise a model that takes a minute to load would be ordered for pages that are read by then.
        wanted = min(wanted, arriving + ahead / (WORK_PER_START * load.start_s))
    if wanted > load.target:
        return wanted
    # Without this, replicas would be given up as soon as they keep waits short, and be ordered again once pages wait.
    hold = min(float(load.target), load.busy / BUSY_SHARE)
    if wanted > load.running:
        hold = float(load.target)  # those that are starting are needed, though not all of them, as it seems now
    if feeds_engines:
        return max(1.0, wanted, load.busy / BUSY_SHARE if load.busy > FULL_SHARE * load.running else hold)
    # One caller who waits for each page keeps one replica busy, and a second one would have nothing to do.
    useful = load.peak_pages / load.at_once - REPORTS_DIFFER
    return max(1.0, min(max(wanted, hold), useful))


def _taken_by_ordered(load: Load) -> float:
    """Return the work that replicas which are starting now will have done by the time a new one has started."""
    starting = max(0, load.target - load.running)
    if load.ordered_ago_s > LATE_STARTS * load.start_s + LATE_S:
        return 0.0
    return starting * min(load.ordered_ago_s, load.start_s)


class PageScaling:
    """The policy for `autoscaling_config.policy` of recognizers and the rasterizer.

    `target_wait_s`: a page should wait no longer than about this; the longer, the fewer replicas. Serve applies its own
    bounds and delays to the result, and starts the first replica itself when a request waits for one.

    `feeds_engines`: the replicas are rasterizers. They see the pages in flight, which are too few to wait long, and not those
    behind, which wait for engines. So more are asked for when all of them are busy, since engines may then wait for them.

    The pages are not quite exact. Those that are being decoded do not count for an engine, nor does their share of the pages
    behind: Serve sends a call on when its pixels are there. And what waited at a caller counts for the look-back period after
    it has gone to a replica, where it counts too. Both are a few pages of a caller, and the delays outlast them.
    """

    def __init__(self, target_wait_s: float = 2.0, feeds_engines: bool = False, build: str = "") -> None:
        """`build` differs at each build of the application, and is of use to Serve only: see `_scaling` in `serve_app/app.py`."""
        self._target_wait_s = target_wait_s
        self._feeds_engines = feeds_engines
        self._growth = Growth()
        self._peak = Peak()

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        """Return the desired replicas. `ctx` is Serve's AutoscalingContext."""
        metrics = ctx.aggregated_metrics or {}
        # More are asked for by the latest pages, since the mean over the look-back period would see a burst late. The upscale delay
        # is there for short ones. Fewer are asked for by the mean, as a page that moves is in two reports, or in none.
        latest = [series[-1].value for series in (ctx.raw_metrics or {}).get("pages", {}).values() if series]
        pages = sum(latest) + ctx.total_queued_requests
        mean_pages = sum(metrics.get("mean_pages", {}).values()) + ctx.total_queued_requests
        ordered_at = ctx.last_scale_up_time
        load = Load(
            pages=pages,
            peak_pages=self._peak.add(ctx.current_time, mean_pages),
            growth=self._growth.add(ctx.current_time, pages),
            page_s=_typical(metrics, "page_s", 0.0),
            at_once=_typical(metrics, "at_once", 1.0),
            start_s=_typical(metrics, "start_s", 0.0),
            busy=sum(metrics.get("busy", {}).values()),
            running=ctx.current_num_replicas,
            target=ctx.target_num_replicas,
            ordered_ago_s=float("inf") if ordered_at is None else ctx.current_time - ordered_at,
        )
        return desired_replicas(load, self._target_wait_s, feeds_engines=self._feeds_engines), {}


class Growth:
    """How fast a number grows, as far as it has grown all the time lately.

    A job of 1,000 pages is a step: it comes once, and does not mean that 1,000 more follow. Callers who send more pages than
    are read make the number grow in one span after the other.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> float:
        """Add a value at time `now` (seconds). Return its growth per second: the least of the last SPANS spans."""
        if not self._points or now - self._points[-1][0] >= SPAN_S / 5:
            self._points.append((now, value))
        while len(self._points) > 1 and self._points[1][0] <= now - SPANS * SPAN_S:
            self._points.popleft()
        if self._points[0][0] > now - SPANS * SPAN_S:
            return 0.0  # too early to tell
        ends = [self._value_at(now - span * SPAN_S) for span in range(SPANS, 0, -1)] + [value]
        return min(later - earlier for earlier, later in pairwise(ends)) / SPAN_S

    def _value_at(self, when: float) -> float:
        return next(value for at, value in reversed(self._points) if at <= when)


class Peak:
    """The highest of the values of the last PEAK_S seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> float:
        """Add a value at time `now` (seconds). Return the peak."""
        while self._points and self._points[-1][1] <= value:
            self._points.pop()
        self._points.append((now, value))
        while self._points[0][0] < now - PEAK_S:
            self._points.popleft()
        return self._points[0][1]


def _typical(metrics: dict[str, dict[Any, float]], name: str, default: float) -> float:
    """Return the median over the replicas that know this value."""
    known: Iterable[float] = [value for value in metrics.get(name, {}).values() if value > 0]
    return median_high(known) if known else default
