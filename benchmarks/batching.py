"""Measures how much of an engine's throughput its queue delivers, and how long callers wait.

The engine is simulated: a batch of n costs 50 + 10 n ms in a thread that sleeps, as real inference
releases the GIL; the largest batch is 16. So its throughput is at most 16 / 0.21 s = 76.2 items a second;
a lower figure is due to the queue.

The queue of the Recognizer and `@serve.batch` run side by side in one Ray Serve; callers are tasks of
one event loop in this process, which at 76 items a second has next to nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from statistics import mean
from typing import Any

import numpy as np
import ray
from matplotlib.figure import Figure
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.report import Cell, Report, Table, Target
from serve_app.app import STATE_CALLS
from serve_app.recognition.engine_thread import EngineThread
from serve_app.scheduling.batch_queue import BatchQueue
from serve_app.settings.engines import BATCHES_AT_A_REPLICA

SUMMARY = "the batch queue against @serve.batch, on a simulated engine"

BATCH_MS = 50
ITEM_MS = 10
MAX_BATCH = 16
IDEAL = MAX_BATCH / (BATCH_MS + ITEM_MS * MAX_BATCH) * 1000  # items a second

CALLERS = 2 * MAX_BATCH
ARRIVALS_PER_S = 60.0
SEED = 20

OURS = "BatchQueue"
ALONE = "BatchQueue, no Ray"
WAITS_S = (0.01, 0.21)  # @serve.batch: a short wait, and one as long as a full batch runs

Submit = Callable[[int], Awaitable["Batch"]]


@dataclass(frozen=True)
class Batch:
    """An item's batch: its number at the engine, and its size."""

    number: int
    size: int


@dataclass(frozen=True)
class Answer:
    """Times in seconds since the run began; `due` is when the item should have been sent."""

    due: float
    done: float
    batch: Batch


@dataclass
class Measured:
    """One queue's results. Full load: 32 callers that send again at once; Poisson: 60 arrivals a second."""

    full_items: int = 0
    full_s: float = 0.0
    batch_sizes: list[int] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return self.full_items / self.full_s

    def add_full_load(self, answers: Sequence[Answer]) -> None:
        """Count whole batches: from the end of one to the end of a later one."""
        ends: dict[int, float] = {}
        for answer in answers:
            ends[answer.batch.number] = max(answer.done, ends.get(answer.batch.number, 0.0))
        first, *_, last = sorted(ends, key=lambda number: ends[number])
        counted = [answer for answer in answers if ends[first] < ends[answer.batch.number] <= ends[last]]
        self.full_items += len(counted)
        self.full_s += ends[last] - ends[first]
        self.batch_sizes += [answer.batch.size for answer in counted]


class SimulatedEngine:
    def __init__(self) -> None:
        self._numbers = count()

    def recognize(self, items: Sequence[int]) -> list[Batch]:
        time.sleep((BATCH_MS + ITEM_MS * len(items)) / 1000)
        batch = Batch(next(self._numbers), len(items))
        return [batch for _ in items]


class Queued:
    """The simulated engine behind the Recognizer's own queue and thread."""

    def __init__(self) -> None:
        self._engine = SimulatedEngine()
        self._thread = EngineThread("engine-simulated", nice=10)
        self._queue: BatchQueue[int, Batch] = BatchQueue(self._run, max_batch=MAX_BATCH)

    async def submit(self, item: int) -> Batch:
        return (await self._queue.submit(item)).result

    async def _run(self, items: Sequence[int]) -> Sequence[Batch]:
        return await self._thread.call(self._engine.recognize, items)


class ServeBatched:
    """The same engine behind `@serve.batch`."""

    def __init__(self, wait_s: float) -> None:
        engine = SimulatedEngine()
        thread = EngineThread("engine-simulated", nice=10)

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=wait_s)
        async def recognize(items: list[int]) -> list[Batch]:
            return await thread.call(engine.recognize, items)

        self._recognize = recognize

    async def submit(self, item: int) -> Batch:
        batch: Batch = await self._recognize(item)
        return batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10, help="full load on each queue, in two turns (default 10)")
    parser.add_argument("--poisson-seconds", type=float, default=15, help="Poisson arrivals at each queue (default 15)")


def run(arguments: argparse.Namespace) -> Report:
    with _ray():
        measured = asyncio.run(_measure(_deploy(), arguments.seconds, arguments.poisson_seconds))
    return _report(measured)


@contextmanager
def _ray() -> Iterator[None]:
    """Start a separate Ray in a folder of its own; a Ray that already runs here is not touched."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=8,
            namespace="serve",
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        try:
            serve.start(proxy_location="Disabled")
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


def _deploy() -> dict[str, DeploymentHandle[Any]]:
    logging_config = {"log_level": "WARNING"}
    queued = serve.deployment(
        max_ongoing_requests=BATCHES_AT_A_REPLICA * MAX_BATCH + STATE_CALLS,  # as the Recognizer has it
        logging_config=logging_config,
    )(Queued)
    # Let every waiting item reach the replica of @serve.batch, which is to its advantage.
    batched = serve.deployment(max_ongoing_requests=10_000, logging_config=logging_config)(ServeBatched)
    handles = {OURS: serve.run(queued.bind(), name="queued", route_prefix=None)}
    for wait_s in WAITS_S:
        name = f"@serve.batch, wait {wait_s * 1000:.0f} ms"
        handles[name] = serve.run(batched.bind(wait_s), name=f"batch-{wait_s * 1000:.0f}", route_prefix=None)
    return handles


async def _measure(
    handles: Mapping[str, DeploymentHandle[Any]], seconds: float, poisson_seconds: float
) -> dict[str, Measured]:
    def through(handle: DeploymentHandle[Any]) -> Submit:
        async def submit(item: int) -> Batch:
            batch: Batch = await handle.submit.remote(item)
            return batch

        return submit

    queues: dict[str, Submit] = {name: through(handle) for name, handle in handles.items()}
    queues[ALONE] = Queued().submit
    for submit in queues.values():
        await asyncio.gather(*(submit(0) for _ in range(CALLERS)))  # connections are made, code is loaded
    measured = {name: Measured() for name in queues}
    # Reverse the order in the second turn, so that other load on the machine does not always hit the same queue.
    for names in (list(queues), list(reversed(queues))):
        for name in names:
            print(f"full load: {name}", flush=True)
            measured[name].add_full_load(await _full_load(queues[name], seconds / 2))
    for name in queues:
        print(f"Poisson arrivals: {name}", flush=True)
        answers = await _poisson(queues[name], poisson_seconds)
        measured[name].latencies_ms = [(answer.done - answer.due) * 1000 for answer in answers]
    return measured


async def _full_load(submit: Submit, seconds: float) -> list[Answer]:
    answers: list[Answer] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while (due := time.perf_counter()) < until:
            answers.append(await _timed(submit, due))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    # Leave out the last batches: they are smaller, since callers have begun to stop.
    return [answer for answer in answers if answer.done < until]


async def _poisson(submit: Submit, seconds: float) -> list[Answer]:
    """Send items at their times without waiting for answers. Latency counts from when an item was due, even if it was sent late."""
    chance = random.Random(SEED)
    begin = time.perf_counter()
    due = begin
    sent: list[asyncio.Task[Answer]] = []
    while (due := due + chance.expovariate(ARRIVALS_PER_S)) < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_timed(submit, due)))
    return await asyncio.gather(*sent)


async def _timed(submit: Submit, due: float) -> Answer:
    batch = await submit(0)
    return Answer(due, time.perf_counter(), batch)


def _report(measured: Mapping[str, Measured]) -> Report:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            queue.per_s,
            100 * queue.per_s / IDEAL,
            mean(queue.batch_sizes),
            *(float(value) for value in np.percentile(queue.latencies_ms, (50, 95, 99))),
        )
        for name, queue in measured.items()
    ]
    table = Table(
        title=(
            f"A batch of n costs {BATCH_MS} + {ITEM_MS} n ms, n up to {MAX_BATCH}; ideal {IDEAL:.1f} items/s.\n"
            f"Full load: {CALLERS} callers. Latency: Poisson arrivals, {ARRIVALS_PER_S:.0f} a second."
        ),
        columns=("queue", "items/s", "% of ideal", "mean batch", "p50 ms", "p95 ms", "p99 ms"),
        rows=rows,
    )
    ours = measured[OURS]
    targets = [
        Target("full load", 100 * ours.per_s / IDEAL, 97, at_least=True, unit="% of ideal"),
        Target("Poisson p50", float(np.median(ours.latencies_ms)), 250, at_least=False, unit="ms"),
    ]
    return Report([table], targets, {name: asdict(queue) for name, queue in measured.items()}, figure=_figure(measured))


def _figure(measured: Mapping[str, Measured]) -> Figure:
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    throughput, latency = figure.subplots(1, 2, width_ratios=(1, 1.2))
    colours = ("#0b6e4f", "#e07a1f", "#b23a48", "#7fb69e")
    names = list(measured)

    bars = throughput.barh(names, [measured[name].per_s for name in names], color=colours)
    throughput.bar_label(
        bars,
        labels=[f"{queue.per_s:.1f}  ({100 * queue.per_s / IDEAL:.1f}%)" for queue in measured.values()],
        label_type="center",
        color="white",
        fontweight="bold",
    )
    throughput.axvline(IDEAL, color="black", linestyle="--", linewidth=1)
    throughput.annotate(f"ideal {IDEAL:.1f}", (IDEAL, -0.62), ha="right", xytext=(-4, 0), textcoords="offset points")
    throughput.set(xlim=(0, IDEAL * 1.05), ylim=(len(names) - 0.4, -0.8), xlabel="items a second")
    throughput.set_title(f"Full load: {CALLERS} callers")

    for name, colour in zip(names, colours, strict=True):
        waits = np.sort(measured[name].latencies_ms)
        style = "--" if name == ALONE else "-"
        latency.plot(
            waits, np.arange(1, len(waits) + 1) / len(waits) * 100, style, color=colour, label=name, linewidth=2
        )
    latency.set_xscale("log")
    latency.xaxis.set_major_formatter("{x:,.0f}")
    latency.grid(which="both", alpha=0.25)
    latency.set(ylim=(0, 100), xlabel="latency, ms (logarithmic)", ylabel="% of items answered within it")
    latency.set_title(f"Poisson arrivals, {ARRIVALS_PER_S:.0f} a second")
    figure.legend(*latency.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure
