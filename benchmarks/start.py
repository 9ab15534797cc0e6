"""How long the service takes to start, beside the smallest application of Ray Serve.

Three starts take turns, each with a Ray, a home and folders of its own:

- `serve run` of a deployment that responds "ok";
- `serve run` of this service with a simulated engine;
- the command of `make serve`, with Tesseract.

A start is timed from the launch of the command to the first healthy response. The engine is loaded in the background,
and is not part of that. The first page is sent then, and waits for the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

import psutil
import yaml

from benchmarks.report import Cell, Report, Table, Target
from benchmarks.scale import ask
from benchmarks.service import (
    KEY,
    START_S,
    Machine,
    cpu_by_process,
    cpu_by_role,
    free_port,
    service_config,
    session_of,
    stop,
)

SUMMARY = "the time to the first healthy response, beside the smallest application of Ray Serve"

SMALLEST, SERVE_RUN, MAKE_SERVE = "smallest application", "serve run", "make serve"
ROOT = Path(__file__).parent.parent
POLL_S = 0.1
ANSWER_S = 5
MOST_TIMES = 1.25


@dataclass(frozen=True)
class Start:
    """Seconds from the launch, CPU seconds by role to the healthy response, cores that the rest of the machine took."""

    healthy_s: float
    first_page_s: float | None
    cpu_s: dict[str, float]
    others: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="of all three starts, in turn (default 3)")


def run(arguments: argparse.Namespace) -> Report:
    starts: dict[str, list[Start]] = {SMALLEST: [], SERVE_RUN: [], MAKE_SERVE: []}
    for number in range(arguments.rounds):
        for name, of_kind in starts.items():
            print(f"round {number + 1}: {name}", flush=True)
            # Short, since Ray makes sockets below it.
            with tempfile.TemporaryDirectory(prefix="start-", dir="/tmp", ignore_cleanup_errors=True) as folder:
                of_kind.append(_start(name, Path(folder)))
    return _report(starts)


def _start(name: str, folder: Path) -> Start:
    port = free_port()
    environment = os.environ | {
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OCR_API_KEYS": KEY,
    }
    environment.pop("RAY_ADDRESS", None)
    address, command = f"http://127.0.0.1:{port}", _command(name, folder, port)
    log_path = folder / "start.log"
    with log_path.open("w") as log:
        machine, launched = Machine(), time.monotonic()
        # Relative paths of the config are from the working directory.
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        family = psutil.Process(process.pid)
        try:
            while not _is_healthy(name, address):
                if process.poll() is not None or time.monotonic() - launched > START_S:
                    raise RuntimeError(f"{name} did not start:\n{log_path.read_text()[-3000:]}")
                time.sleep(POLL_S)
            healthy_s = time.monotonic() - launched
            cpu_s = cpu_by_role({}, cpu_by_process(family))
            others = machine.others(cpu_s)
            if name == SMALLEST:
                return Start(healthy_s, None, cpu_s, others)
            asyncio.run(_read_page(address))
            return Start(healthy_s, time.monotonic() - launched, cpu_s, others)
        finally:
            stop(process, family)


def _command(name: str, folder: Path, port: int) -> Sequence[str]:
    if name == MAKE_SERVE:
        return [sys.executable, "-m", "serve_app", "serve", str(ROOT / "configs/local.yaml"), "--port", str(port)]
    if name == SERVE_RUN:
        config = service_config(folder, {"name": "dummy", "replicas": 1})
    else:
        application = {"name": "smallest", "import_path": "benchmarks.smallest_application:application"}
        config = service_config(folder, {}) | {"applications": [application]}
    config["http_options"]["port"] = port
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return [str(Path(sys.executable).parent / "serve"), "run", str(path)]


def _is_healthy(name: str, address: str) -> bool:
    path, healthy = ("/", b"ok") if name == SMALLEST else ("/health", b'"status":"healthy"')
    try:
        request = Request(address + path, headers={"Authorization": f"Bearer {KEY}"})
        with urlopen(request, timeout=ANSWER_S) as response:
            return healthy in response.read()
    except OSError:  # nobody listens, or the proxy has no application yet
        return False


async def _read_page(address: str) -> None:
    async with session_of(address) as session:
        await ask(session, (ROOT / "samples/page-en.png").read_bytes())


def _report(starts: Mapping[str, Sequence[Start]]) -> Report:
    smallest = _healthy_s(starts[SMALLEST])
    targets = [
        Target(name, _healthy_s(starts[name]) / smallest, MOST_TIMES, at_least=False, unit="times the smallest")
        for name in (SERVE_RUN, MAKE_SERVE)
    ]
    data = {name: [asdict(start) for start in of_kind] for name, of_kind in starts.items()}
    return Report([_times_table(starts), _cpu_table(starts)], targets, data)


def _healthy_s(starts: Sequence[Start]) -> float:
    return median(start.healthy_s for start in starts)


def _times_table(starts: Mapping[str, Sequence[Start]]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            _healthy_s(of_kind),
            " ".join(f"{start.healthy_s:.1f}" for start in of_kind),
            None if name == SMALLEST else median(start.first_page_s or 0 for start in of_kind),
            sum(_median_cpu_s(of_kind).values()),
            f"{max(start.others for start in of_kind):.2f}",
        )
        for name, of_kind in starts.items()
    ]
    return Table(
        "Seconds from the launch to the first healthy response, and to the text of the first page. CPU seconds until healthy;\n"
        "the most cores that anything else kept busy: above 0.1 the machine is not quiet.",
        ("", "healthy", "by round", "first page", "CPU s", "others"),
        rows,
    )


def _cpu_table(starts: Mapping[str, Sequence[Start]]) -> Table:
    spent = {name: _median_cpu_s(of_kind) for name, of_kind in starts.items()}
    roles = sorted({role for by_role in spent.values() for role in by_role})
    rows = [(role, *(f"{by_role.get(role, 0.0):.2f}" for by_role in spent.values())) for role in roles]
    return Table("CPU seconds until healthy, by process", ("", *spent), rows)


def _median_cpu_s(starts: Sequence[Start]) -> dict[str, float]:
    roles = {role for start in starts for role in start.cpu_s}
    return {role: median(start.cpu_s.get(role, 0.0) for start in starts) for role in roles}
