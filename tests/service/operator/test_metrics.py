"""A real Prometheus beside the service under load: what it finds there, and what dashboards and alerts make of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest

from serve_app.metrics.catalogue import instruments
from serve_app.metrics.instruments import EXPORTED_PREFIX
from tests.support.cluster import ROOT, Cluster
from tests.support.job_client import book, job_of, submit, wait_for_end
from tests.support.monitoring import ALERTS, expressions, in_prometheus, sooner, unconditional
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.webhook_receiver import WebhookReceiver

QUIET = {
    "ocr_cache_lookups_total": "the cache is off",
    "ocr_decoder_deaths_total": "no process dies",
    "ocr_store_errors_total": "the store is there",
    "ocr_vlm_server_up": "no engine has an inference server",
    "ocr_writer_deaths_total": "no process dies",
}
"""Metrics of what this service lacks, and of what does not happen to it here."""

EMPTY = {
    "absent(ray_ocr_store_up)": "replicas report",
    "absent(ray_serve_deployment_status)": "so does the controller",
    'outcome="failed"': "no page fails",
    'reason="fallback_engine"': "no page is read by a fallback engine",
    'outcome=~"failed|degraded"': "no page fails",
    'status="503"': "no request is refused",
    'status=~"5.."': "none fails",
    "ray_node_gpus_utilization": "the machine has no GPU",
    **{f"ray_{name}": reason for name, reason in QUIET.items()},
}
"""Parts of the expressions that have no data here, and why."""


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, cluster.dashboard, ALERTS.read_text()) as prometheus:
        asyncio.run(load(cluster))
        yield prometheus


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
        with WebhookReceiver() as receiver:
            job = wait_for_end(client, submit(client, book(2), engine="dummy", webhook=receiver.url))
            while job["webhook"]["state"] == "pending":
                await asyncio.sleep(0.2)
                job = job_of(client, job["id"])
        assert job["state"] == "done"


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


def test_each_expression_of_dashboards_and_alerts_has_data_where_the_load_makes_some(prometheus: Prometheus) -> None:
    everything = expressions()
    assert all(any(part in each for each in everything) for part in EMPTY), "a part that no expression has"
    prometheus.wait_for_all(
        [sooner(unconditional(each)) for each in everything if not any(part in each for part in EMPTY)]
    )


def test_no_alert_fires_at_a_service_that_is_well(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.asked("/rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert not prometheus.series('ALERTS{alertstate="firing"}')
