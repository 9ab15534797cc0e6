"""A Ray cluster of one node as an operator runs it: `ray start --head`, then `serve deploy`."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.support.processes import kill_tree
from tests.support.ray_environment import RAY_ENVIRONMENT
from tests.support.service import KEYS, Service
from tests.support.swift import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GPUS = 3
"""As many as Ray counts; there is none."""
EPHEMERAL = 30_000  # HAProxy's and the system's own ranges of ports begin here


def low_port() -> int:
    """A port that no outgoing connection takes meanwhile: the system chooses theirs from a higher range."""
    while True:
        port = random.randint(20_000, EPHEMERAL - 1)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


class Cluster:
    """A Ray as `ray start --head` makes it, on ports and in a folder of its own, with HAProxy as the ingress."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = Service("ocr", f"http://127.0.0.1:{free_port()}")
        self.haproxy_metrics_port = low_port()
        self.metrics_port = free_port()
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_"))}
        self.environment = {
            **clean,
            "HOME": str(folder),
            "OCR_API_KEYS": KEYS,
            "OCR_WEBHOOK_SECRET": "whsec_d2ViaG9vayBzZWNyZXQ=",
            **RAY_ENVIRONMENT,
            # HAProxy's defaults are the same for all of a machine.
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
            # Half a minute by default, for load balancers that ask whether a replica is there. HAProxy is told at once.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.haproxy_metrics_port),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(low_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(low_port()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy" / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy" / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "haproxy" / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "haproxy"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy" / "server-state"),
        }
        host, _, dashboard_port = self.dashboard.removeprefix("http://").partition(":")
        self._log = (folder / "ray-start.log").open("wb")
        self.process = subprocess.Popen(
            [
                BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}",
                f"--dashboard-host={host}", f"--dashboard-port={dashboard_port}", "--num-cpus=8", f"--num-gpus={GPUS}",
                f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}", "--disable-usage-stats",
                f"--metrics-export-port={self.metrics_port}",
            ],
            cwd=folder, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._wait(lambda: httpx.get(f"{self.dashboard}/api/version").status_code == 200, "the dashboard")

    def serve(self, *arguments: str) -> str:
        """Run Serve's command line; returns what it prints."""
        done = subprocess.run(
            [BIN / "serve", *arguments, "-a", self.dashboard],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, config: dict[str, Any]) -> None:
        """Deploy a configuration of Serve, which is then `self.config`."""
        self.config = config
        file = self.folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config))
        self.serve("deploy", str(file))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = yaml.safe_load(self.serve("status"))
        return status

    def deployments(self) -> dict[str, Any]:
        """What the dashboard shows of each deployment."""
        deployments: dict[str, Any] = self._told()["applications"]["ocr"]["deployments"]
        return deployments

    def wait_until_running(self) -> None:
        """Look at what `serve status` prints where it has it from: the command costs two CPU seconds each time."""
        self._wait(lambda: self._told()["applications"]["ocr"]["status"] == "RUNNING", "the application", 90)

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=10).json()
        return told

    def proxies(self) -> list[psutil.Process]:
        """The processes of HAProxy: after a change of replicas also those that finish their last requests."""
        begin = f"{self.folder}/haproxy/"
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(word.startswith(begin) and word.endswith(".cfg") for word in process.info["cmdline"] or [])
        ]

    def stop(self) -> None:
        kill_tree(self.process)
        for process in self.proxies():
            process.kill()
        self._log.close()

    def _wait(self, ready: Any, what: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "ray-start.log").read_text()
            try:
                if ready():
                    return
            except (httpx.HTTPError, KeyError):
                pass
            time.sleep(0.3)
        raise AssertionError(f"{what} is not up after {timeout_s:g} s")
