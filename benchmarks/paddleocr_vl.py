"""Gain of the service with PaddleOCR-VL and an inference server: 16 clients against 16 calls in a row.

Library: `PaddleOCRVL.predict` of paddleocr, one page after another in a process of its own, as a program
would call it: it must not be called from several threads. HTTP: the service with one
recognizer, and clients in a process of their own. Both read the same files with the same layout model,
and have their blocks read by the same stand-in for an inference server: a token takes its time, and any
number of blocks are read at once. The models are tiny: the figures say nothing about a GPU.

Rounds take turns, the library and then HTTP, because a machine's speed drifts; ratios are medians over
rounds. The other side is idle meanwhile; its cost is in "other work". The service makes JSON and
Markdown of its results and stores them; the library does neither.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing as mp
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.light_pages import BLOCKS, PAGES, light_pages, vlm_service_config
from benchmarks.load import Load, in_steady_state
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import LOAD, Machine, cpu_by_process, cpu_by_role, running_service, take
from tests.support.vlm_server import VlmServer

SUMMARY = "PaddleOCR-VL over HTTP against the library's own calls in a row, with a stand-in inference server"

CALLS = PAGES  # of a turn of the library
TARGET_CLIENTS = CALLS
TARGET_RATIO = 6
TURNS_A_CLIENT = 4  # of which the first and the last are not timed
LEAST_PAGES = 6
SAMPLE_S = 0.1
QUEUES = {"library, use_queues as it comes": None, "library, use_queues=False": False}
ONE_EACH = f"HTTP, {TARGET_CLIENTS} clients, a page each"

RECOGNIZER = "recognizers"  # service.py's name of the role
STAND_IN = "stand-in server"
LIBRARY = "library"


@dataclass(frozen=True)
class Turn:
    """One turn of one side. `cpu_s`: CPU seconds a page by role; `others`: cores that the rest of the machine
    kept busy meanwhile; `memory_mb`: peak of the own memory of the process with the engine."""

    pages_per_s: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]
    others: float
    memory_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, TARGET_CLIENTS], help="default 1 4 16")
    parser.add_argument("--rounds", type=int, default=2, help="library and HTTP, in turn (default 2)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a block (default 200)")
    parser.add_argument("--token-ms", type=float, default=5.0, help="milliseconds of a token (default 5)")


def run(arguments: argparse.Namespace) -> Report:
    turns: dict[str, list[Turn]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name,
        VlmServer(tokens=arguments.tokens, token_ms=arguments.token_ms) as vlm,
    ):
        folder = Path(name)
        files = light_pages(folder)
        models = folder / "models"
        subprocess.run([sys.executable, "-m", "tests.support.tiny_paddleocr_vl", str(models)], check=True)
        library = _Library(models / "layout", vlm, files)
        try:
            with running_service(vlm_service_config(folder, models / "layout", vlm), folder) as (address, process):
                http = _Http(address, process, vlm, files)
                library.wait_until_ready()
                http.turn(TARGET_CLIENTS, TARGET_CLIENTS)  # connections are made, code is loaded
                for number in range(arguments.rounds):
                    for name, use_queues in QUEUES.items():
                        print(f"round {number + 1}: {name}", flush=True)
                        turns[name].append(library.turn(use_queues))
                    for clients in arguments.clients:
                        name = f"HTTP, {clients} client(s)"
                        print(f"round {number + 1}: {name}", flush=True)
                        turns[name].append(http.turn(clients, max(LEAST_PAGES, TURNS_A_CLIENT * clients)))
                    if TARGET_CLIENTS in arguments.clients:
                        print(f"round {number + 1}: {ONE_EACH}", flush=True)
                        turns[ONE_EACH].append(http.turn(TARGET_CLIENTS, TARGET_CLIENTS))
        finally:
            library.stop()
        counters = vlm.counters()
    if counters["refused"] or counters["failed"] or counters["cancelled"]:
        raise RuntimeError(f"not all blocks were read: {counters}")
    if library.digests != http.digests:
        raise RuntimeError("the service and the library did not read the same blocks")
    return _report(turns, counters["most_in_flight"], arguments)


class _Library:
    """paddleocr in a process of its own, which loads while the service starts."""

    def __init__(self, layout: Path, vlm: VlmServer, files: Sequence[Path]) -> None:
        spawn = mp.get_context("spawn")
        self._orders: SimpleQueue[tuple[bool | None] | None] = spawn.SimpleQueue()
        self._answers: SimpleQueue[Any] = spawn.SimpleQueue()
        self._vlm = vlm
        self._worker = spawn.Process(
            target=_library, args=(layout, vlm.url, files, self._orders, self._answers), daemon=True
        )
        self._worker.start()
        self.digests: dict[int, str] = {}
        assert self._worker.pid is not None
        self._process = psutil.Process(self._worker.pid)

    def wait_until_ready(self) -> None:
        self.digests = take(self._answers, [self._worker])

    def turn(self, use_queues: bool | None) -> Turn:
        vlm = psutil.Process(self._vlm.pid)
        before, machine = {LIBRARY: _cpu(self._process), STAND_IN: _cpu(vlm)}, Machine()
        self._orders.put((use_queues,))
        ends, memory_mb = _watched(self._answers, self._worker, self._process)
        spent = {LIBRARY: _cpu(self._process) - before[LIBRARY], STAND_IN: _cpu(vlm) - before[STAND_IN]}
        return Turn(
            pages_per_s=CALLS / (ends[-1] - ends[0]),
            latencies_ms=[(end - begin) * 1000 for begin, end in pairwise(ends)],
            cpu_s={role: seconds / CALLS for role, seconds in spent.items()},
            others=machine.others(spent),
            memory_mb=memory_mb,
        )

    def stop(self) -> None:
        self._orders.put(None)
        self._worker.join(10)
        if self._worker.is_alive():
            self._worker.kill()


def _library(
    layout: Path, url: str, files: Sequence[Path], orders: SimpleQueue[Any], answers: SimpleQueue[Any]
) -> None:
    """Puts the digests of all files when ready, then for each command its start time and the end times of the calls."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("GLOG_minloglevel", "2")
    from paddleocr import PaddleOCRVL

    logging.getLogger("paddlex").setLevel(logging.ERROR)
    library = PaddleOCRVL(
        device="cpu", layout_detection_model_dir=str(layout), vl_rec_backend="vllm-server", vl_rec_server_url=url
    )
    results = library.predict([str(file) for file in files])
    answers.put({i: _digest(result._to_markdown(pretty=False)["markdown_texts"]) for i, result in enumerate(results)})
    while (order := orders.get()) is not None:
        ends = [time.monotonic()]
        for file in files:
            (result,) = library.predict(str(file), use_queues=order[0])
            if len(result["parsing_res_list"]) != BLOCKS + 1:
                raise RuntimeError(f"{len(result['parsing_res_list'])} blocks on {file.name}")
            ends.append(time.monotonic())
        answers.put(ends)


class _Http:
    """The service, its address and its process."""

    def __init__(self, address: str, service: psutil.Process, vlm: VlmServer, files: Sequence[Path]) -> None:
        self._address = address
        self._service = service
        self._vlm = vlm
        self._files = [file.read_bytes() for file in files]
        # Ray has set the titles of the replicas' processes before the service is ready.
        (self._recognizer,) = [
            process
            for process in service.children(recursive=True)
            if any("ServeReplica:ocr:Recognizer" in word for word in process.cmdline())
        ]
        self.digests: dict[int, str] = {}

    def turn(self, clients: int, pages: int) -> Turn:
        """Send `pages` pages, at most one at a time from each client. Raises RuntimeError if a text is wrong."""
        load = Load(self._address, self._files, clients, pages, _ask)
        vlm = psutil.Process(self._vlm.pid)
        before, vlm_before, machine = cpu_by_process(self._service), _cpu(vlm), Machine()
        load.start()
        answers, memory_mb = _watched(load.answers, load.process, self._recognizer)
        spent = cpu_by_role(before, cpu_by_process(self._service))
        spent[STAND_IN] = _cpu(vlm) - vlm_before
        spent[LOAD] = take(load.answers, [load.process])
        others = machine.others(spent)
        load.process.join()
        for answer in answers:
            if self.digests.setdefault(answer.file, answer.digest) != answer.digest:
                raise RuntimeError("the same page was read in two ways")
        since, counted = in_steady_state(answers, clients)
        return Turn(
            pages_per_s=len(counted) / (counted[-1].done - since),
            latencies_ms=[(answer.done - answer.sent) * 1000 for answer in counted],
            cpu_s={role: seconds / pages for role, seconds in spent.items()},
            others=others,
            memory_mb=memory_mb,
        )


async def _ask(session: aiohttp.ClientSession, file: bytes) -> str:
    form = aiohttp.FormData()
    form.add_field("file", file, filename="page.png", content_type="image/png")
    async with session.post("/ocr", data=form) as response:
        body = await response.read()
        if response.status != 200:
            raise RuntimeError(f"answer {response.status}: {body[:300]!r}")
    (page,) = json.loads(body)["pages"]
    if page["degraded"] or len(page["blocks"]) != BLOCKS + 1:
        raise RuntimeError(f"{len(page['blocks'])} blocks on a page: {page['warnings']}")
    return _digest(page["markdown"])


def _watched(answers: SimpleQueue[Any], worker: Any, measured: psutil.Process) -> tuple[Any, float]:
    """The next of `answers`, and the peak memory of the `measured` process meanwhile, in MB."""
    most = 0
    while answers.empty():
        if worker.exitcode:
            raise RuntimeError("a process of the benchmark died")
        memory = measured.memory_info()
        most = max(most, memory.rss - memory.shared)  # of Ray's object store it only sees the pixels
        time.sleep(SAMPLE_S)
    return answers.get(), most / 1e6


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _digest(markdown: str) -> str:
    return hashlib.sha256(markdown.strip().encode()).hexdigest()


def _report(turns: Mapping[str, list[Turn]], most_in_flight: int, arguments: argparse.Namespace) -> Report:
    # Compare with the faster of the library's two ways in each round.
    library = [max(both, key=lambda turn: turn.pages_per_s) for both in zip(*(turns[n] for n in QUEUES), strict=True)]
    ratios = {
        name: [one.pages_per_s / base.pages_per_s for one, base in zip(runs, library, strict=True)]
        for name, runs in turns.items()
    }
    targets = [
        Target(name, median(ratios[name]), TARGET_RATIO, at_least=True, unit="times the library")
        for name in (ONE_EACH, f"HTTP, {TARGET_CLIENTS} client(s)")
        if name in ratios
    ]
    tables = [_speed_table(turns, ratios, arguments), _cpu_table(turns)]
    notes = [f"Most blocks in flight at the stand-in: {most_in_flight}"]
    data = {
        "most_in_flight": most_in_flight,
        "turns": {n: [asdict(turn) for turn in runs] for n, runs in turns.items()},
    }
    return Report(tables, targets, data, notes)


def _speed_table(
    turns: Mapping[str, list[Turn]], ratios: Mapping[str, list[float]], arguments: argparse.Namespace
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, runs in turns.items():
        p50, p95 = np.percentile([ms for run in runs for ms in run.latencies_ms], (50, 95))
        rows.append(
            (
                name,
                f"{median(run.pages_per_s for run in runs):.2f}",
                median(ratios[name]),
                " ".join(f"{ratio:.1f}" for ratio in ratios[name]),
                float(p50),
                float(p95),
                f"{max(run.memory_mb for run in runs):.0f}",
                f"{max(run.others for run in runs):.2f}",
            )
        )
    return Table(
        title=(
            f"{CALLS} pages of {BLOCKS} blocks, {arguments.tokens} tokens a block, {arguments.token_ms:g} ms a token; "
            f"medians over {arguments.rounds} round(s).\n"
            "Times: against the library's faster way. MB: most memory of the process with the engine.\n"
            "Other work: the most cores that anything else kept busy; above 0.2 the machine is not quiet."
        ),
        columns=("", "pages/s", "times", "by round", "p50 ms", "p95 ms", "MB", "other work"),
        rows=rows,
    )


def _cpu_table(turns: Mapping[str, list[Turn]]) -> Table:
    """Where CPU time goes; that of idle processes is spread over the pages too."""
    names = list(turns)
    roles = {role for runs in turns.values() for run in runs for role in run.cpu_s}

    def line(role: str) -> tuple[Cell, ...]:
        costs = (1000 * median(run.cpu_s.get(role, 0.0) for run in turns[name]) for name in names)
        return (role, *(cost if cost else None for cost in costs))

    rows = sorted((line(role) for role in roles), key=lambda row: -float(row[-1] or 0))
    everything: tuple[Cell, ...] = (
        "all",
        *(1000 * median(sum(run.cpu_s.values()) for run in turns[name]) for name in names),
    )
    legend = ", ".join(f"{chr(ord('A') + i)}: {name}" for i, name in enumerate(names))
    return Table(
        title=f"CPU in ms a page\n{legend}",
        columns=("", *(chr(ord("A") + i) for i in range(len(names)))),
        rows=[everything, *rows],
    )
