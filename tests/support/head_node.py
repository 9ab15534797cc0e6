"""A Ray whose head keeps its state in Redis and has no work, and one node that does the work: the head may die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.processes import kill_tree
from tests.support.ray_environment import RAY_ENVIRONMENT, WITHOUT_PANDAS
from tests.support.service import KEYS, Service
from tests.support.swift import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WORK = "work"
"""The resource that only the node with the work has."""

PATIENCE_S = 90.0


class HeadAndNode:
    """Two nodes of Ray on this machine; `service` is reached at the proxy of the one that does the work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port, self._dashboard_port, redis_port, proxy_port = (free_port() for _ in range(4))
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}"
        self.service = Service("ocr", f"http://127.0.0.1:{proxy_port}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_"))}
        self._environment = {
            **clean,
            "HOME": str(folder),
            "OCR_API_KEYS": KEYS,
            **RAY_ENVIRONMENT,
            **WITHOUT_PANDAS,
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            # Two proxies on one machine.
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(proxy_port),
        }
        self._redis = self._started(
            ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        )
        self._head = self._started_head()
        self._wait(lambda: httpx.get(f"{self.dashboard}/api/version").is_success, "the dashboard")
        self._node = self._started(
            [
                BIN / "ray", "start", "--block", f"--address=127.0.0.1:{self._port}", "--node-ip-address=127.0.0.1",
                "--num-cpus=4", f"--resources={json.dumps({WORK: 100})}", f"--metrics-export-port={free_port()}",
                f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats",
            ],
        )  # fmt: skip

    def run(self, settings: dict[str, Any]) -> None:
        """Deploy the application as `serve deploy` does, and wait until its engines are ready."""
        application = {"name": "ocr", "route_prefix": "/", "import_path": "serve_app.app:build", "args": settings}
        http = {"host": "127.0.0.1", "port": free_port()}
        config = {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}
        file = self.folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config))
        subprocess.run(
            [BIN / "serve", "deploy", file, "-a", self.dashboard],
            cwd=ROOT, env=self._environment, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        self.wait_until_running()
        with self.service.client() as http_client:
            self._wait(lambda: http_client.get("/readyz").is_success, "the node's proxy")
        self.service.wait_until_engines_are_ready()

    def wait_until_running(self) -> None:
        """Until the controller says so, which runs at the head."""
        url = f"{self.dashboard}/api/serve/applications/"
        self._wait(
            lambda: httpx.get(url, timeout=10).json()["applications"]["ocr"]["status"] == "RUNNING", "the application"
        )

    def kill_head(self) -> None:
        """Kill all of the head node at once, as a power cut does."""
        kill_tree(self._head)

    def start_head_again(self) -> None:
        """At the same address, without anything of the first one but what Redis has."""
        (self.folder / "ray_current_cluster").unlink()
        self._head = self._started_head()

    def stop(self) -> None:
        for process in (self._head, self._node, self._redis):
            kill_tree(process)

    def _started_head(self) -> subprocess.Popen[bytes]:
        return self._started(
            [
                BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self._port}",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}", "--num-cpus=0",
                f"--temp-dir={self.folder}", f"--ray-client-server-port={free_port()}", "--disable-usage-stats",
                f"--metrics-export-port={free_port()}",
            ],
        )  # fmt: skip

    def _started(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{Path(command[0]).name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if ready():
                    return
            except (httpx.HTTPError, KeyError):
                pass  # nothing listens yet, or the dashboard does not know the application yet
            assert time.monotonic() < deadline, f"{what}: {(self.folder / 'ray.log').read_text()[-3000:]}"
            time.sleep(0.3)
