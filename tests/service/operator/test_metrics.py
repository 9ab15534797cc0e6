"""A real Prometheus beside the service under load: what it finds there, and what dashboards and alerts make of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.metrics.catalogue import instruments
from serve_app.metrics.instruments import EXPORTED_PREFIX
from tests.support.cluster import ROOT, Cluster
from tests.support.job_client import book, submit, wait_for_end
from tests.support.monitoring import ALERTS, in_prometheus, without_variables
from tests.support.swift import free_port

QUIET = {
    "ocr_cache_lookups_total",
    "ocr_decoder_deaths_total",
    "ocr_store_errors_total",
    "ocr_vlm_server_up",
    "ocr_webhook_attempts_total",
    "ocr_webhooks_ended_total",
    "ocr_writer_deaths_total",
}
"""Metrics of what this service lacks, and of what does not happen to it here."""

PATIENCE_S = 60


class Prometheus:
    """Prometheus with the configuration of Docker Compose, but for addresses and the time between two scrapes."""

    def __init__(self, folder: Path, dashboard: str) -> None:
        config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "compose" / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (discovery,) = config["scrape_configs"][0]["http_sd_configs"]
        discovery["url"] = discovery["url"].replace("http://127.0.0.1:8265", dashboard)
        del discovery["authorization"]  # this Ray asks for no token
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / ALERTS.name).write_text(ALERTS.read_text())
        address = f"127.0.0.1:{free_port()}"
        self._http = httpx.Client(base_url=f"http://{address}/api/v1", timeout=30)
        self.process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}", "--log.level=warn",
            ],
            cwd=folder,
        )  # fmt: skip

    def asked(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(path, params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.asked("/query", query=without_variables(expression, window="1m"))["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if series := self.series(expression):
                    return series
            except httpx.TransportError:  # it starts
                pass
            time.sleep(0.3)
        raise AssertionError(f"no data for {expression}")


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), cluster.dashboard)
    try:
        prometheus.wait_for("up")
        asyncio.run(load(cluster))
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(30)


async def load(cluster: Cluster) -> None:
    page = (ROOT / "samples" / "page-ru.png").read_bytes()
    async with cluster.service.async_client() as http:

        async def send(engine: str, times: int) -> None:
            for _ in range(times):
                assert (await http.post("/ocr", files={"file": page}, data={"engine": engine})).status_code == 200

        await asyncio.gather(send("paddleocr-vl", 1), send("tesseract", 3), *(send("dummy", 5) for _ in range(4)))
        refused = await http.post("/ocr", json={"image_url": "http://10.0.0.1/"})
        assert refused.json()["error"]["code"] == "url_forbidden"
    with cluster.service.client() as client:
        assert wait_for_end(client, submit(client, book(2), engine="dummy"))["state"] == "done"


def test_what_happened_is_exported_and_nothing_that_the_documentation_lacks(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    for metric in instruments():
        if metric.name not in QUIET:
            for series in prometheus.wait_for(in_prometheus(metric)):
                labels = series["metric"]
                assert labels["application"] == "ocr" and labels["deployment"] and labels["replica"], labels
    text = httpx.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics").text
    types = dict(re.findall(rf"^# TYPE {EXPORTED_PREFIX}(ocr_\w+) (\w+)$", text, re.M))
    assert types == {each.name: each.kind for each in instruments() if each.name in types}


def test_the_numbers_are_those_of_the_load(prometheus: Prometheus) -> None:
    expected = {
        'sum(ray_ocr_pages_total{engine="dummy",outcome="done"}) >= 22': "20 requests, and 2 pages of a job",
        'sum(ray_ocr_page_stage_seconds_count{engine="dummy",stage="recognize"}) >= 22': "their stages",
        'sum(ray_ocr_requests_total{key="alice",status="403",reason="url_forbidden"}) >= 1': "the refused request",
        'sum(ray_ocr_fetches_total{outcome="failed",reason="url_forbidden"}) >= 1': "and its fetch",
        'sum(ray_ocr_jobs_ended_total{state="done"}) >= 1': "the job",
        'sum(ray_ocr_engine_state{engine="dummy",phase="initialized"}) == 1': "its replica",
        "min(ray_ocr_engine_up) == 1": "no engine is down",
        "min(ray_ocr_store_up) == 1": "nor the store",
        'sum(rate(ray_ocr_engine_busy_seconds_total{engine="dummy"}[5m])) > 0': "work",
    }
    for expression in expected:
        prometheus.wait_for(expression)


def test_no_alert_fires_at_a_service_that_is_well(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.asked("/rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert not prometheus.series('ALERTS{alertstate="firing"}')
