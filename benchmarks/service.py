"""Runs the service for a benchmark, and measures the CPU time of its processes and of the machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

KEY = "benchmark-key"
START_S = 120
STOP_S = 60
REQUEST_S = 1800

LOAD = "load generator"

# Roles of processes by their command line or title; the first match counts.
ROLES = {
    "serve_app.raster.decoder_process": "decoder",
    "serve_app.outputs.writer_process": "PDF writer",
    "ray::ServeReplica:ocr:Ingress": "ingress",
    "ray::ServeReplica:ocr:Jobs": "jobs",
    "ray::ServeReplica:ocr:Rasterizer": "rasterizer",
    "ray::ServeReplica:ocr:Recognizer": "recognizers",
    "ray::ServeReplica": "replica",
    "ray::ProxyActor": "proxy",
    "ray::ServeController": "controller",
    "gcs_server": "gcs",
    "raylet/raylet": "raylet",
    "ray/dashboard": "dashboard",
    "ray/_private/runtime_env/agent": "dashboard",
    # Titles that the agents set once they run.
    "ray::DashboardAgent": "dashboard",
    "ray::RuntimeEnvAgent": "dashboard",
    "ray/_private": "monitors",
    "ray::IDLE": "idle workers",
    "serve_app serve": "command line",
    "bin/serve run": "command line",
}


def take(answers: SimpleQueue[Any], workers: Sequence[Any]) -> Any:
    """The next of `answers`. Raises RuntimeError if a process that gives them has died."""
    while answers.empty():
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("a process of the benchmark died")
        time.sleep(0.05)
    return answers.get()


def service_config(folder: Path, engine: Mapping[str, Any], build: str = "serve_app.app:build") -> dict[str, Any]:
    """The Serve config of a service with one engine and all its files in `folder`; `build` is its import path."""
    application = {
        "name": "ocr",
        "route_prefix": "/",
        "import_path": build,
        "args": {
            "engines": [dict(engine)],
            "store": {"kind": "folder", "path": str(folder / "output")},
            "temp_dir": str(folder / "temp"),
            "spool_dir": str(folder / "spool"),
        },
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8081},
        "logging_config": {"log_level": "WARNING"},
        "applications": [application],
    }


def session_of(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        address, headers={"Authorization": f"Bearer {KEY}"}, timeout=aiohttp.ClientTimeout(total=REQUEST_S)
    )


def pdf_form(file: bytes, output: str) -> aiohttp.FormData:
    """The body of POST /ocr."""
    form = aiohttp.FormData()
    form.add_field("output", output)
    form.add_field("file", file, filename="document.pdf", content_type="application/pdf")
    return form


@contextmanager
def running_service(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run `python -m serve_app serve` with its own Ray, port and folders; yields its address and process."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    port = free_port()
    log_path = folder / "service.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", "serve", str(path), "--port", str(port)],
            env=os.environ | {"OCR_API_KEYS": KEY, "RAY_TMPDIR": str(folder / "ray"), "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=log,
        )
        service = psutil.Process(process.pid)
        try:
            _wait(lambda: "is ready" in log_path.read_text(), process, log_path)
            yield f"http://127.0.0.1:{port}", service
        finally:
            stop(process, service)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def stop(process: subprocess.Popen[bytes], service: psutil.Process) -> None:
    """End a command as Ctrl-C does, then what is left of its processes."""
    family = service.children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()


class Machine:
    """Measures, from its creation on, how busy the machine is with other things."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy = self._busy_s()

    def others(self, spent: Mapping[str, float]) -> float:
        """Cores that other things kept busy: all CPU seconds less those `spent` on what is measured."""
        busy = self._busy_s() - self._busy
        return max(0.0, busy - sum(spent.values())) / (time.monotonic() - self._since)

    @staticmethod
    def _busy_s() -> float:
        times = psutil.cpu_times()
        idle: float = times.idle + getattr(times, "iowait", 0.0)
        # The user's time includes that of guests.
        return sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def role_of(command_line: str) -> str:
    """The role of a process, by its command line joined with spaces."""
    return next((role for mark, role in ROLES.items() if mark in command_line), "other")


def cpu_by_process(service: psutil.Process) -> dict[tuple[int, float], tuple[str, float]]:
    """Role and CPU seconds so far of each process of the service, by its pid and start time."""
    spent = {}
    for process in [service, *service.children(recursive=True)]:
        try:
            line = " ".join(process.cmdline())
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent[process.pid, process.create_time()] = (role_of(line), times.user + times.system)
    return spent


def cpu_by_role(
    before: Mapping[tuple[int, float], tuple[str, float]], after: Mapping[tuple[int, float], tuple[str, float]]
) -> dict[str, float]:
    """CPU seconds by role between two results of `cpu_by_process`."""
    by_role: dict[str, float] = defaultdict(float)
    for process, (role, seconds) in after.items():
        by_role[role] += seconds - before.get(process, (role, 0.0))[1]
    return dict(by_role)
