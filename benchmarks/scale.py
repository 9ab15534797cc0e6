"""Pages a second by the number of replicas, and how replicas follow the load.

The engine is simulated: each page takes it `page_s` seconds, and no CPU. Pages are small, so that two cores can carry
as many as 32 such engines read; what a page costs in CPU is in the table, by process. What the processes take without
a load is measured first and is not counted as the pages'.

Loads: many single images (twice as many clients as replicas), one long job, and ten jobs with as many pages in all.
Linear is `replicas / page_s` pages a second. A job is timed from its submission to its end.

Step: 1 caller, then 32, then 1 again, while Serve scales one engine of 0.3 s a page between 1 and 8 replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.cluster import Cluster, running_cluster
from benchmarks.load import Load, in_steady_state
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import Machine, cpu_by_process, cpu_by_role, service_config, session_of, take

SUMMARY = "pages/s over replicas, on several nodes, and replicas over time"

REPLICAS = (1, 2, 4, 8, 16, 32)
LARGEST = 32
# With the most replicas; with fewer, as many as take as long. So many that the last round, which is not full, hardly counts.
JOB_PAGES = 1000
JOBS = 10
SINGLE_S = 20.0
LEAST_ROUNDS = 10  # of pages a replica: a round in which some replicas are not measured is a small part of these
SETTLE_S = 5.0  # Ray and Serve still have things to do after replicas have started
IDLE_S = 20.0
PAGE_S = 1.0
LINEAR_PERCENT = 95
SIZE = (600, 850)
POLL_S = 0.25
JOB_POLL_S = 1.0  # a question costs about as much CPU as a page
ROLES = ("proxy", "ingress", "jobs", "rasterizer", "decoder", "recognizers", "controller")

STEP_PAGE_S = 0.3
STEP_REPLICAS = 8
STEP_CALLERS = 32
STEP_PHASES_S = (10.0, 60.0, 210.0)
DEPLOYMENT = "Recognizer-dummy"

Idle = Mapping[str, float]
"""CPU seconds a second by role, without a load."""


@dataclass(frozen=True)
class Point:
    """One load on one number of replicas.

    `cpu_ms`: CPU milliseconds a page by role, beyond those without a load. `cores`: kept busy in all, by the service, by
    the clients and by the rest of the machine; `others`: by the last two.
    """

    load: str
    replicas: int
    page_s: float
    pages: int
    pages_per_s: float
    cpu_ms: dict[str, float]
    cores: float
    others: float

    @property
    def efficiency(self) -> float:
        return self.pages_per_s * self.page_s / self.replicas


@dataclass(frozen=True)
class Step:
    """Times in seconds since the step up. `replicas`: (time, callers, running replicas)."""

    replicas: list[tuple[float, int, int]]
    pages: int
    lost: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS), help="default: 1 2 4 8 16 32")
    parser.add_argument("--page-s", type=float, default=PAGE_S, help="seconds a page of the engine (default 1)")
    parser.add_argument("--nodes", type=int, default=3, help="Ray nodes (default 3)")
    parser.add_argument("--only", choices=("loads", "step"), help="measure one part (default: both)")


def run(arguments: argparse.Namespace) -> Report:
    points: list[Point] = []
    idle: dict[int, Idle] = {}
    step: Step | None = None
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        running_cluster(arguments.nodes) as cluster,
    ):
        if arguments.only != "step":
            for replicas in arguments.replicas:
                cluster.deploy(_config(Path(folder), {"replicas": replicas, "page_s": arguments.page_s}))
                idle[replicas] = _idle(cluster)
                points += _points(cluster, replicas, arguments.page_s, idle[replicas])
        if arguments.only != "loads":
            cluster.deploy(_scaling_config(Path(folder)))
            step = asyncio.run(_step(cluster))
    return _report(points, idle, step, arguments.nodes)


def _config(folder: Path, engine: Mapping[str, Any]) -> dict[str, Any]:
    return service_config(folder, {"name": "dummy", "max_batch": 1, **engine})


def _scaling_config(folder: Path) -> dict[str, Any]:
    """An engine that follows the load, with the default delays but for the one before replicas stop."""
    return _config(
        folder, {"page_s": STEP_PAGE_S, "replicas": {"min": 1, "max": STEP_REPLICAS, "downscale_delay_s": 30}}
    )


def _page(number: int) -> Image.Image:
    """A small page, white but for a few bars."""
    pixels = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    pixels[50 : 50 + 10 * (1 + number % 70) : 10, 50:550] = 0
    return Image.fromarray(pixels)


def _document(pages: int) -> bytes:
    stream = io.BytesIO()
    first, *others = (_page(number) for number in range(pages))
    first.save(stream, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return stream.getvalue()


def _idle(cluster: Cluster) -> Idle:
    """Return the CPU seconds a second by role, with no load."""
    time.sleep(SETTLE_S)
    before = cpu_by_process(cluster.process)
    time.sleep(IDLE_S)
    return {role: seconds / IDLE_S for role, seconds in cpu_by_role(before, cpu_by_process(cluster.process)).items()}


def _points(cluster: Cluster, replicas: int, page_s: float, idle: Idle) -> list[Point]:
    pages = round(JOB_PAGES * replicas / LARGEST)
    points = [_singles(cluster, replicas, page_s, idle)]
    for load, jobs in (("one job", 1), (f"{JOBS} jobs", JOBS)):
        print(f"{replicas} replica(s): {load}", flush=True)
        size = max(1, pages // jobs)
        work = partial(_time_jobs, cluster.address, [_document(size)] * jobs)
        points.append(_measure(cluster, load, replicas, page_s, size * jobs, work, idle))
    return points


def _measure(
    cluster: Cluster, load: str, replicas: int, page_s: float, pages: int, work: Callable[[], float], idle: Idle
) -> Point:
    before, machine, begun = cpu_by_process(cluster.process), Machine(), time.monotonic()
    seconds = work()
    spent = cpu_by_role(before, cpu_by_process(cluster.process))
    all_s = time.monotonic() - begun
    others = machine.others(spent)
    return Point(
        load,
        replicas,
        page_s,
        pages,
        pages / seconds,
        {role: 1000 * (spent.get(role, 0.0) - idle.get(role, 0.0) * all_s) / pages for role in ROLES},
        others + sum(spent.values()) / all_s,
        others,
    )


def _singles(cluster: Cluster, replicas: int, page_s: float, idle: Idle) -> Point:
    print(f"{replicas} replica(s): single images", flush=True)
    files = []
    for number in range(8):
        stream = io.BytesIO()
        _page(number).save(stream, "PNG")
        files.append(stream.getvalue())
    clients = 2 * replicas
    pages = round(clients + max(SINGLE_S / page_s, LEAST_ROUNDS) * replicas)
    load = Load(cluster.address, files, clients, pages, ask)

    def work() -> float:
        load.start()
        answers = take(load.answers, [load.process])
        take(load.answers, [load.process])
        load.process.join()
        begun, steady = in_steady_state(answers, clients)
        return (max(answer.done for answer in steady) - begun) * pages / len(steady)

    return _measure(cluster, "single images", replicas, page_s, pages, work, idle)


async def ask(session: aiohttp.ClientSession, file: bytes) -> str:
    """Send one image. Raises RuntimeError unless it has been read."""
    form = aiohttp.FormData()
    form.add_field("file", file, filename="page.png")
    async with session.post("/ocr", data=form) as response:
        body = await response.read()
    if response.status != 200 or b'"status":"done"' not in body:
        raise RuntimeError(f"answer {response.status}: {body[:300]!r}")
    return ""


def _time_jobs(address: str, documents: Sequence[bytes]) -> float:
    return asyncio.run(_jobs(address, documents))


async def _jobs(address: str, documents: Sequence[bytes]) -> float:
    """Return the seconds from the first submission to the end of the last job, by the service's clock."""
    async with session_of(address) as session:
        jobs = await asyncio.gather(*(_job(session, document) for document in documents))
    return (max(ended for _, ended in jobs) - min(created for created, _ in jobs)).total_seconds()


async def _job(session: aiohttp.ClientSession, document: bytes) -> tuple[datetime, datetime]:
    """Return when the job was created and when it ended."""
    form = aiohttp.FormData()
    form.add_field("file", document, filename="document.tiff")
    async with session.post("/jobs", data=form) as response:
        if response.status != 202:
            raise RuntimeError(f"answer {response.status}: {(await response.text())[:300]}")
        job: dict[str, Any] = await response.json()
    while not job["ended"]:
        await asyncio.sleep(JOB_POLL_S)
        async with session.get(f"/jobs/{job['id']}") as response:
            job = await response.json()
    if job["state"] != "done":
        raise RuntimeError(f"a job has failed: {job}")
    return datetime.fromisoformat(job["created"]), datetime.fromisoformat(job["ended"])


async def _step(cluster: Cluster) -> Step:
    """Callers one after another, then many at once, then one again; each sends its next page when it has an answer."""
    stream = io.BytesIO()
    _page(0).save(stream, "PNG")
    file, pages, lost = stream.getvalue(), 0, 0
    seen: list[tuple[float, int, int]] = []

    async def caller(session: aiohttp.ClientSession, until: float) -> None:
        nonlocal pages, lost
        while time.monotonic() < until:
            try:
                await ask(session, file)
                pages += 1
            except (RuntimeError, aiohttp.ClientError):
                lost += 1

    async def watch(callers: int, since: float, until: float) -> None:
        while time.monotonic() < until:
            running = await asyncio.to_thread(cluster.running, DEPLOYMENT)
            seen.append((time.monotonic() - since, callers, running))
            await asyncio.sleep(POLL_S)

    before, during, after = STEP_PHASES_S
    step_up = time.monotonic() + before
    async with session_of(cluster.address) as session:
        until = step_up
        for callers, seconds in ((1, 0.0), (STEP_CALLERS, during), (1, after)):
            until += seconds
            print(f"step: {callers} caller(s)", flush=True)
            await asyncio.gather(watch(callers, step_up, until), *(caller(session, until) for _ in range(callers)))
    return Step(seen, pages, lost)


def _report(points: Sequence[Point], idle: Mapping[int, Idle], step: Step | None, nodes: int) -> Report:
    tables, targets = [], []
    if points:
        tables += [_pages_table(points, nodes), _cpu_table(points), _idle_table(idle)]
        largest = max(point.replicas for point in points)
        targets += [
            Target(
                f"{point.load}, {largest} replicas",
                100 * point.efficiency,
                LINEAR_PERCENT,
                at_least=True,
                unit="% of linear",
            )
            for point in points
            if point.replicas == largest
        ]
    if step is not None:
        tables.append(_step_table(step))
        targets.append(Target("requests lost", step.lost, 0, at_least=False, unit="requests"))
    data = {
        "points": [asdict(point) for point in points],
        "idle_cpu_s_per_s": idle,
        "step": None if step is None else asdict(step),
    }
    return Report(tables, targets, data, figure=_figure(points, step))


def _pages_table(points: Sequence[Point], nodes: int) -> Table:
    loads = list(dict.fromkeys(point.load for point in points))
    by = {(point.load, point.replicas): point for point in points}
    rows: list[tuple[Cell, ...]] = [
        (replicas, *(cell for load in loads for cell in _cells(by.get((load, replicas)))))
        for replicas in sorted({point.replicas for point in points})
    ]
    columns = ("replicas", *(name for load in loads for name in (load, "of linear")))
    return Table(f"Pages/s on {nodes} nodes; an engine takes {points[0].page_s:g} s for a page.", columns, rows)


def _cells(point: Point | None) -> tuple[Cell, Cell]:
    return (None, None) if point is None else (point.pages_per_s, f"{point.efficiency:.2f}")


def _cpu_table(points: Sequence[Point]) -> Table:
    largest = max(point.replicas for point in points)
    rows = [
        (
            point.load,
            *(point.cpu_ms[role] for role in ROLES),
            sum(point.cpu_ms.values()),
            f"{point.cores:.2f}",
            f"{point.others:.2f}",
        )
        for point in points
        if point.replicas == largest
    ]
    return Table(
        f"CPU ms a page with {largest} replicas, beyond those without a load. Cores kept busy in all, and by the clients and the\n"
        "rest of the machine.",
        ("", *ROLES, "all", "cores", "others"),
        rows,
    )


def _idle_table(idle: Mapping[int, Idle]) -> Table:
    roles = sorted({role for by_role in idle.values() for role in by_role})
    rows = [
        (replicas, *(1000 * by_role.get(role, 0.0) for role in roles), 1000 * sum(by_role.values()))
        for replicas, by_role in idle.items()
    ]
    return Table("CPU ms a second without a load, by number of replicas", ("", *roles, "all"), rows)


def _step_table(step: Step) -> Table:
    during = [(at, running) for at, callers, running in step.replicas if callers > 1]
    after = [(at, running) for at, callers, running in step.replicas if at > STEP_PHASES_S[1]]
    least = min(running for _, running in during)
    spent = sum(
        (later[0] - earlier[0]) * earlier[2] for earlier, later in zip(step.replicas, step.replicas[1:], strict=False)
    )
    most = max(running for _, running in during)
    rows: list[tuple[Cell, ...]] = [
        ("first new replica, s", next((at for at, running in during if running > least), None)),
        ("most replicas", most),
        ("all of them, s", next((at for at, running in during if running == most), None)),
        ("back to one, s after the step down",
         next((at - STEP_PHASES_S[1] for at, running in after if running == 1), None)),
        ("pages", step.pages),
        ("requests lost", step.lost),
        ("replica-seconds spent", spent),
        ("replica-seconds that the pages take", step.pages * STEP_PAGE_S),
    ]  # fmt: skip
    title = f"1, {STEP_CALLERS} and 1 callers for {', '.join(f'{seconds:g}' for seconds in STEP_PHASES_S)} s; {STEP_PAGE_S:g} s a page, at most {STEP_REPLICAS} replicas."
    return Table(title, ("", ""), rows)


def _figure(points: Sequence[Point], step: Step | None) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    scale, time_line = figure.subplots(1, 2)
    if points:
        for load in dict.fromkeys(point.load for point in points):
            mine = [point for point in points if point.load == load]
            scale.plot([p.replicas for p in mine], [p.pages_per_s for p in mine], marker="o", label=load)
        sizes = sorted({point.replicas for point in points})
        scale.plot(sizes, [size / points[0].page_s for size in sizes], color="grey", linestyle=":", label="linear")
        scale.set(xlabel="replicas", ylabel="pages/s", xscale="log", yscale="log")
        scale.legend()
    if step is not None:
        times = [at for at, _, _ in step.replicas]
        time_line.step(times, [running for _, _, running in step.replicas], where="post", label="running replicas")
        time_line.step(times, [callers for _, callers, _ in step.replicas], where="post", label="callers", color="grey")
        time_line.set(xlabel="s since the step up", yscale="log")
        time_line.legend()
    return figure
