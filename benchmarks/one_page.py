"""The way of one page: where its time goes between the client's request and its response, with an engine that costs nothing.

An A4 page at 200 dpi, as a JPEG of about 0.5 MB. One client sends it again and again, and the stages of each request add up to
its time. Then several clients send it, for the pages a second and the CPU of a page.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from benchmarks.load import Load, in_steady_state
from benchmarks.report import Cell, Report, Table, Target
from benchmarks.service import (
    LOAD,
    Machine,
    cpu_by_process,
    cpu_by_role,
    running_service,
    service_config,
    session_of,
    take,
)
from benchmarks.stamped_service import STAMPS

SUMMARY = "the time of one page, stage by stage, with an engine that costs nothing"

ROOT = Path(__file__).parent.parent
SIZE = (1654, 2339)  # A4 at 200 dpi
FILE_BYTES = 500_000
CLIENTS = 8
WARM_UP = 20
MOST_MS = 35
LEAST_PAGES_PER_S = 45

# Each stage, and the stamps at which it begins and ends.
STAGES = {
    "client, proxy, to the ingress": ("sent", "received"),
    "receive the body": ("received", "opening"),
    "open: the file into Ray's store": ("opening", "opened"),
    "call the rasterizer": ("opened", "decoding"),
    "decode": ("decoding", "decoded"),
    "pixels into Ray's store, call the recognizer": ("decoded", "recognizing"),
    "recognizer": ("recognizing", "recognized"),
    "result to the ingress": ("recognized", "finishing"),
    "store the result": ("finishing", "finished"),
    "response, proxy, client": ("finished", "done"),
}


@dataclass(frozen=True)
class Throughput:
    """`cpu_ms`: CPU milliseconds a page by role; `others`: cores that the rest of the machine kept busy."""

    pages_per_s: float
    cpu_ms: dict[str, float]
    others: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, default=200, help="pages of one client, and of several (default 200)")


def run(arguments: argparse.Namespace) -> Report:
    file = _page()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        stamps = Path(folder) / "stamps"
        os.environ |= {STAMPS: str(stamps), "PYTHONPATH": str(ROOT)}
        config = service_config(
            Path(folder), {"name": "dummy", "replicas": 1}, build="benchmarks.stamped_service:build"
        )
        with running_service(config, Path(folder)) as (address, service):
            sent = asyncio.run(_one_client(address, file, WARM_UP + arguments.pages))[WARM_UP:]
            requests = _with_stamps(sent, stamps)
            before, machine = cpu_by_process(service), Machine()
            load = Load(address, [file], CLIENTS, arguments.pages, ask)
            load.start()
            answers = take(load.answers, [load.process])
            spent = cpu_by_role(before, cpu_by_process(service))
            spent[LOAD] = take(load.answers, [load.process])
            begun, steady = in_steady_state(answers, CLIENTS)
            throughput = Throughput(
                len(steady) / (max(answer.done for answer in steady) - begun),
                {role: 1000 * seconds / arguments.pages for role, seconds in spent.items()},
                machine.others(spent),
            )
    return _report(requests, throughput, _at_best_ms(file))


def _page() -> bytes:
    """An A4 page with noise, as from a scanner, whose JPEG has about FILE_BYTES."""
    pixels = np.random.default_rng(0).normal(235, 6, (SIZE[1], SIZE[0], 1)).repeat(3, axis=2)
    pixels[200:2100:40, 150:1500] = 40
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for quality in range(95, 10, -1):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, dpi=(200, 200))
        if stream.tell() <= FILE_BYTES:
            break
    return stream.getvalue()


async def ask(session: aiohttp.ClientSession, file: bytes) -> str:
    """Send one page and return its document's id. Raises RuntimeError unless it has been read."""
    form = aiohttp.FormData()
    form.add_field("file", file, filename="page.jpg")
    async with session.post("/ocr", data=form) as response:
        document = await response.json()
    if response.status != 200 or document["status"] != "done":
        raise RuntimeError(f"answer {response.status}: {str(document)[:300]}")
    return str(document["id"])


async def _one_client(address: str, file: bytes, pages: int) -> list[dict[str, Any]]:
    requests = []
    async with session_of(address) as session:
        for _ in range(pages):
            sent = time.monotonic()
            document = await ask(session, file)
            requests.append({"document": document, "sent": sent, "done": time.monotonic()})
    return requests


def _with_stamps(sent: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Add the stamps of all processes to each request."""
    stamps: dict[str, dict[str, float]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        stamps[json.loads(line).pop("document")] |= json.loads(line)
    return [stamps[request["document"]] | request for request in sent]


def _at_best_ms(file: bytes) -> dict[str, float]:
    """What stages would take at best, in milliseconds: their work in one process, without Ray."""
    with Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(image.convert("RGB"))
    store = np.empty_like(pixels)

    def decode() -> None:
        with Image.open(io.BytesIO(file)) as image:
            np.asarray(image.convert("RGB"))

    return {
        "decode": _median_ms(decode),
        "pixels into Ray's store, call the recognizer": _median_ms(lambda: np.copyto(store, pixels)),
    }


def _median_ms(work: Callable[[], None]) -> float:
    times = []
    for _ in range(30):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return median(times)


def _report(requests: Sequence[dict[str, Any]], throughput: Throughput, at_best: Mapping[str, float]) -> Report:
    stages = {
        stage: [1000 * (request[end] - request[begin]) for request in requests]
        for stage, (begin, end) in STAGES.items()
    }
    totals = [1000 * (request["done"] - request["sent"]) for request in requests]
    rows: list[tuple[Cell, ...]] = [
        (stage, float(np.mean(times)), median(times), float(np.percentile(times, 95)), at_best.get(stage))
        for stage, times in stages.items()
    ]
    rows.append(("all", float(np.mean(totals)), median(totals), float(np.percentile(totals, 95)), None))
    cpu = sorted(throughput.cpu_ms.items(), key=lambda item: -item[1])
    service_ms = sum(ms for role, ms in cpu if role != LOAD)
    targets = [
        Target("one client, median", median(totals), MOST_MS, at_least=False, unit="ms"),
        Target(f"{CLIENTS} clients", throughput.pages_per_s, LEAST_PAGES_PER_S, at_least=True, unit="pages/s"),
    ]
    tables = [
        Table(
            f"One client, {len(requests)} pages: milliseconds of each stage. The means add up. At best: its work in one process.",
            ("", "mean", "median", "p95", "at best"),
            rows,
        ),
        Table(
            f"{CLIENTS} clients: CPU ms a page. The rest of the machine kept {throughput.others:.2f} cores busy.",
            ("", "CPU ms"),
            [("the whole service", service_ms), *cpu],
        ),
    ]
    data = {"stages_ms": stages, "total_ms": totals, "throughput": asdict(throughput)}
    return Report(tables, targets, data)
