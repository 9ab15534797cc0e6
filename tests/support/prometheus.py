"""A real Prometheus beside a service of the tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.monitoring import ALERTS, CONFIGS, without_variables
from tests.support.swift import free_port

PATIENCE_S = 60.0
STOP_S = 30


class Prometheus:
    """Prometheus with the configuration of Docker Compose, but for addresses, the time between two scrapes, and the rules."""

    def __init__(self, folder: Path, dashboard: str, rules: str) -> None:
        config: dict[str, Any] = yaml.safe_load((CONFIGS / "compose" / "prometheus.yaml").read_text())
        # A scrape may take as long as the pause between two. Where replicas have come and gone, Ray has much to tell.
        config["global"] = {"scrape_interval": "3s", "evaluation_interval": "1s"}
        (discovery,) = config["scrape_configs"][0]["http_sd_configs"]
        discovery["url"] = discovery["url"].replace("http://127.0.0.1:8265", dashboard)
        del discovery["authorization"]  # this Ray asks for no token
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / ALERTS.name).write_text(rules)
        address = f"127.0.0.1:{free_port()}"
        self._http = httpx.Client(base_url=f"http://{address}/api/v1", timeout=30)
        self.process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}", "--log.level=warn",
            ],
            cwd=folder,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(httpx.TransportError):  # it does not listen yet
                if self._http.get("/query", params={"query": "1"}).status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return
            assert time.monotonic() < deadline, "Prometheus does not start"
            time.sleep(0.1)

    def asked(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(path, params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.asked("/query", query=without_variables(expression, window="1m"))["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        self.wait_for_all([expression])
        return self.series(expression)

    def wait_for_all(self, expressions: list[str], patience_s: float = PATIENCE_S) -> None:
        """Until each has had data once."""
        left = dict.fromkeys(expressions)
        deadline = time.monotonic() + patience_s
        while left:
            assert time.monotonic() < deadline, f"no data for {list(left)}"
            left = {expression: None for expression in left if not self.series(expression)}
            if left:
                time.sleep(0.3)

    def stop(self) -> None:
        self._http.close()
        self.process.terminate()
        self.process.wait(STOP_S)


@contextmanager
def running_prometheus(folder: Path, dashboard: str, rules: str) -> Iterator[Prometheus]:
    """One that scrapes the nodes which the dashboard lists."""
    prometheus = Prometheus(folder, dashboard, rules)
    try:
        prometheus.wait_until_ready()
        prometheus.wait_for("up")
        yield prometheus
    finally:
        prometheus.stop()
