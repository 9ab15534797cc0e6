"""Each alert fires, in a real Prometheus, once that has happened of which it tells.

A second application breaks in all ways. At the end no application is left, so this module is the folder's last.
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

PATIENCE_S = 90.0
OF_ENGINES_AND_JOBS = {
    *("OcrEngineDown", "OcrInferenceServerDown", "OcrPagesFailing", "OcrRequestsRefused", "OcrReplicasShort"),
    *("OcrJobsOld", "OcrJobsUnreadable", "OcrQueueGrowing"),
}
OF_STORE_AND_PROCESSES = {"OcrStoreDown", "OcrSpoolFilling", "OcrProcessesKilled"}
OF_ALL = "OcrServiceMissing"
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
            jobs = [submit(client, scan(russian_page, 80), engine="tesseract") for _ in range(2)]
            inference_server.control(status=500)
            wait_until_firing(
                prometheus,
                OF_ENGINES_AND_JOBS - {"OcrInferenceServerDown"},
                lambda: (send(client, russian_page, "paddleocr-vl"), send(client, russian_page, "dummy")),
            )
            for job_id in jobs:
                assert client.delete(f"/jobs/{job_id}").is_success
            inference_server.stop()
            wait_until_firing(prometheus, {"OcrInferenceServerDown"})
            with swift.away():
                wait_until_firing(
                    prometheus,
                    OF_STORE_AND_PROCESSES,
                    lambda: (send(client, russian_page, "tesseract"), send_and_kill_what_decodes(client, service)),
                )
    assert {each["metric"]["application"] for each in prometheus.series(FIRING)} == {BROKEN}, "the other one is well"


def test_the_alert_of_a_missing_service_fires_when_no_application_is_left(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    cluster.deploy({**cluster.config, "applications": []})
    wait_until_firing(prometheus, {OF_ALL})


def test_there_is_no_other_alert() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted(names) == sorted({*OF_ENGINES_AND_JOBS, *OF_STORE_AND_PROCESSES, OF_ALL})


def with_broken_application(
    cluster: Cluster, swift: SwiftServer, inference_server: VlmServer, models: TinyModels
) -> dict[str, Any]:
    """Add an application whose dummy engine cannot load and asks for two GPUs, of which one is free."""
    config = copy.deepcopy(cluster.config)
    store, keys = swift.store_settings(BROKEN)
    dummy = {"name": "dummy", "replicas": 2, "num_gpus": 1, "load_error": "there is no such model"}
    tesseract = {"name": "tesseract", "replicas": 1, "num_cpus": 0}
    arguments = {
        "engines": [served_by(inference_server, models, num_cpus=0), tesseract, dummy],
        "raster": {"replicas": 1},
        "store": store,
        "spool_dir": str(cluster.folder / "spool"),
        "spool_mb": 0.1,
        "limits": {"engine_wait_s": 1},
    }
    config["applications"].append(
        {
            "name": BROKEN,
            "route_prefix": f"/{BROKEN}",
            "import_path": config["applications"][0]["import_path"],
            "args": arguments,
            "runtime_env": {"env_vars": keys},
        }
    )
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
