"""Each alert fires, in a real Prometheus, once that has happened of which it tells.

A second application breaks in all ways, and a third is refused. At the end there is no application, and then no Ray, so this module is
the folder's last.
"""

from __future__ import annotations

import copy
import functools
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from serve_app.document.ids import document_folder, new_document_id
from tests.support.cluster import Cluster
from tests.support.job_client import book, submit
from tests.support.monitoring import ALERTS, sooner
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.service import Service
from tests.support.swift_fixture import SwiftServer
from tests.support.tiny_paddleocr_vl import TinyModels
from tests.support.vlm_server import VlmServer
from tests.support.vlm_service import served_by, wait_for

BROKEN = "broken"
"""Name of the application, its route, and the folder of its objects."""

REFUSED = "refused"
"""Name of the application with a setting that does not exist."""

PATIENCE_S = 180.0
OF_ENGINES_AND_JOBS = {
    *(
        "OcrDeployFailed",
        "OcrEngineDown",
        "OcrPagesFailing",
        "OcrRequestsRefused",
        "OcrRequestsFailing",
        "OcrReplicasShort",
    ),
    *("OcrJobsOld", "OcrJobsUnreadable", "OcrQueueGrowing"),
}
OF_FALLBACK = "OcrFallbackReads"
OF_SERVER = "OcrInferenceServerDown"
OF_STORE_AND_PROCESSES = {"OcrStoreDown", "OcrSpoolFilling", "OcrProcessesKilled"}
OF_ALL = "OcrServiceMissing"
OF_HEAD = "OcrHeadMissing"
FIRING = 'ALERTS{alertstate="firing"}'


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, cluster.dashboard, sooner(ALERTS.read_text())) as prometheus:
        yield prometheus


def test_each_alert_of_an_application_fires_when_that_breaks(
    cluster: Cluster, prometheus: Prometheus, swift: SwiftServer, tiny_models: TinyModels, russian_page: bytes
) -> None:
    with VlmServer(tokens=20, token_ms=1) as inference_server:
        cluster.deploy(with_broken_application(cluster, swift, inference_server, tiny_models))
        service = Service(BROKEN, f"{cluster.service.url}/{BROKEN}")
        with service.client() as client:
            wait_for(lambda: are_initialized(client, "tesseract", "paddleocr-vl"), "its engines", PATIENCE_S)
            damage_a_record(swift)
            assert send(client, russian_page, "paddleocr-vl").status_code == 200
            submit(client, book(2), engine="dummy")  # waits for its engine, and grows old
            inference_server.control(token_ms=1000)
            jobs = [submit(client, scan(russian_page, 80), engine="paddleocr-vl") for _ in range(2)]
            wait_until_firing(
                prometheus,
                OF_ENGINES_AND_JOBS,
                lambda: (send(client, russian_page, "dummy"), send(client, russian_page, "paddleocr-vl")),
            )
            for job_id in jobs:
                assert client.delete(f"/jobs/{job_id}").is_success
            inference_server.control(token_ms=1, status=500)
            wait_until_firing(prometheus, {OF_FALLBACK}, lambda: send(client, russian_page, "paddleocr-vl"))
            inference_server.stop()
            wait_until_firing(prometheus, {OF_SERVER})
            with swift.away():
                wait_until_firing(
                    prometheus,
                    OF_STORE_AND_PROCESSES,
                    lambda: (send(client, russian_page, "tesseract"), send_and_kill_what_decodes(client, service)),
                )
    assert {each["metric"]["application"] for each in prometheus.series(FIRING)} == {BROKEN, REFUSED}, (
        "the other one is well"
    )


def test_the_alert_of_a_missing_service_fires_when_no_application_is_left(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    cluster.deploy({**cluster.config, "applications": []})
    wait_until_firing(prometheus, {OF_ALL})


def test_the_alert_of_a_missing_head_fires_when_there_is_no_ray(cluster: Cluster, prometheus: Prometheus) -> None:
    cluster.stop()
    wait_until_firing(prometheus, {OF_HEAD})


def test_there_is_no_other_alert() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted(names) == sorted(
        {*OF_ENGINES_AND_JOBS, OF_FALLBACK, OF_SERVER, *OF_STORE_AND_PROCESSES, OF_ALL, OF_HEAD}
    )


def with_broken_application(
    cluster: Cluster, swift: SwiftServer, inference_server: VlmServer, models: TinyModels
) -> dict[str, Any]:
    """Add an application whose dummy engine cannot load and asks for two GPUs, of which one is free, and one that is refused."""
    config = copy.deepcopy(cluster.config)
    store, keys = swift.store_settings(BROKEN)
    dummy = {"name": "dummy", "replicas": 2, "num_gpus": 1, "load_error": "there is no such model"}
    tesseract = {"name": "tesseract", "replicas": 1, "num_cpus": 0}
    arguments = {
        "engines": [served_by(inference_server, models, num_cpus=0, fallback="tesseract"), tesseract, dummy],
        "raster": {"replicas": 1},
        "store": store,
        "spool_dir": str(cluster.folder / "spool"),
        "spool_mb": 0.1,
        "limits": {"engine_wait_s": 1, "request_s": 8},
    }
    of_both = {"import_path": config["applications"][0]["import_path"], "runtime_env": {"env_vars": keys}}
    config["applications"] += [
        {"name": BROKEN, "route_prefix": f"/{BROKEN}", "args": arguments, **of_both},
        {"name": REFUSED, "route_prefix": f"/{REFUSED}", "args": {"no_such_setting": 1}, **of_both},
    ]
    return config


def are_initialized(client: httpx.Client, *engines: str) -> bool:
    health = client.get("/health")
    return health.is_success and all(health.json()["engines"][name]["state"] == "initialized" for name in engines)


def send(client: httpx.Client, page: bytes, engine: str) -> httpx.Response:
    return client.post("/ocr", files={"file": page}, data={"engine": engine})


def scan(page: bytes, pages: int) -> bytes:
    """A TIFF with so many copies of a page."""
    with Image.open(io.BytesIO(page)) as image:
        black_and_white = image.convert("1")
    stream = io.BytesIO()
    copies = [black_and_white] * (pages - 1)
    black_and_white.save(stream, "TIFF", save_all=True, append_images=copies, compression="group4")
    return stream.getvalue()


def damage_a_record(swift: SwiftServer) -> None:
    job_id = new_document_id()
    swift.put(f"{BROKEN}/{document_folder(job_id)}/job.json", b"{")
    swift.put(f"{BROKEN}/jobs/active/{job_id}", b"")


def send_and_kill_what_decodes(client: httpx.Client, service: Service) -> httpx.Response:
    """Send an image that takes a while to decode, and kill its decoder meanwhile, as the kernel does where memory is short."""
    (rasterizer,) = service.replicas("Rasterizer")
    idle_s = {decoder: decoder.cpu_times().user for decoder in rasterizer.children()}
    with ThreadPoolExecutor(1) as clients:
        sent = clients.submit(send, client, white_image(), "tesseract")
        while not sent.done():
            at_work = [decoder for decoder, before_s in idle_s.items() if decoder.cpu_times().user > before_s + 0.05]
            if at_work:
                at_work[0].kill()
                break
            time.sleep(0.01)
        return sent.result()


@functools.cache
def white_image() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (6000, 6000), 255).save(stream, "PNG")
    return stream.getvalue()


def wait_until_firing(prometheus: Prometheus, alerts: set[str], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Until each has fired once."""
    fired: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while alerts - fired:
        assert time.monotonic() < deadline, f"not firing: {alerts - fired}"
        meanwhile()
        fired.update(each["metric"]["alertname"] for each in prometheus.series(FIRING))
        time.sleep(0.3)
