"""`serve deploy` and `serve status` against a Ray that an operator runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.documentation import code_blocks
from tests.support.processes import kill_tree
from tests.support.ray_environment import RAY_ENVIRONMENT
from tests.support.swift import free_port
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OPERATE = ROOT / "docs" / "operate.md"
KEY = "operator-key"


class Cluster:
    """A Ray as `ray start --head` makes it, on ports and in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.metrics_port = free_port()
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_"))}
        self.environment = {
            **clean,
            "HOME": str(folder),
            "OCR_API_KEYS": KEY,
            **RAY_ENVIRONMENT,
        }
        host, _, dashboard_port = self.dashboard.removeprefix("http://").partition(":")
        self._log = (folder / "ray-start.log").open("wb")
        self.process = subprocess.Popen(
            [
                BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}",
                f"--dashboard-host={host}", f"--dashboard-port={dashboard_port}", "--num-cpus=4", "--num-gpus=1",
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

    def stop(self) -> None:
        kill_tree(self.process)
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


@pytest.fixture(scope="module")
def cluster(short_tmp_path_factory: Any) -> Iterator[Cluster]:
    cluster = Cluster(short_tmp_path_factory())
    yield cluster
    cluster.stop()


def documented_deployments() -> list[dict[str, Any]]:
    """The `deployments` that docs/operate.md shows under Scaling, with Serve's own `autoscaling_config`."""
    (block,) = [block for _, block in code_blocks(OPERATE.read_text()) if block.startswith("deployments:")]
    deployments: list[dict[str, Any]] = yaml.safe_load(block)["deployments"]
    return deployments


def production_config(cluster: Cluster, models: TinyModels) -> dict[str, Any]:
    """serve_config.yaml as it stands, on a free loopback port; the GPU that Ray counts is none, the models are tiny."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": cluster.port}
    application = config["applications"][0]
    application["args"]["store"]["path"] = str(cluster.folder / "output")
    vl = application["args"]["engines"][0]
    vl |= {"device": "cpu", "layout_model_dir": str(models.layout)}
    vl["vlm"]["model_dir"] = str(models.vlm)
    for scaled in (*application["args"]["engines"], application["args"]["raster"]):
        scaled["replicas"]["max"] = 2  # what this machine has room for
    application["deployments"] += documented_deployments()
    return config


async def test_serve_deploy_then_again_with_a_changed_setting_under_load_loses_no_request(
    cluster: Cluster, tiny_models: TinyModels, russian_page: bytes
) -> None:
    config = production_config(cluster, tiny_models)
    cluster.deploy(config)
    cluster.wait_until_running()
    told = cluster.status()["applications"]["ocr"]
    assert told["status"] == "RUNNING"
    deployments = told["deployments"]
    assert set(deployments) == {
        "Ingress", "Jobs", "Rasterizer", "Recognizer-paddleocr-vl", "Recognizer-tesseract",
    }  # fmt: skip
    assert {deployment["status"] for deployment in deployments.values()} == {"HEALTHY"}
    assert deployments["Ingress"]["replica_states"] == {"RUNNING": 2}

    url, headers = f"http://127.0.0.1:{cluster.port}", {"X-API-Key": KEY}
    stop = asyncio.Event()

    async def client(engine: str) -> list[httpx.Response]:
        answers = []
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=90) as client:
            while not stop.is_set():
                answers.append(await client.post("/ocr", files={"file": russian_page}, data={"engine": engine}))
        return answers

    clients = [asyncio.create_task(client(engine)) for engine in ("paddleocr-vl", "tesseract")]
    await asyncio.sleep(2)
    config["applications"][0]["args"]["engines"][0]["max_new_tokens"] = 3
    config["applications"][0]["args"]["engines"][1]["languages"] = ["rus"]
    await asyncio.to_thread(cluster.deploy, config)
    await asyncio.to_thread(cluster.wait_until_running)
    await asyncio.sleep(2)
    stop.set()
    answers = [answer for of_client in await asyncio.gather(*clients) for answer in of_client]
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert len(answers) >= 8 and not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"
    async with httpx.AsyncClient(base_url=url, headers=headers) as once:
        tesseract = {"engine": "tesseract", "language": "eng"}
        refused = await once.post("/ocr", files={"file": russian_page}, data=tesseract)
        cut = await once.post("/ocr", files={"file": russian_page}, timeout=30)
    assert refused.status_code == 422, "the changed setting is in force"
    assert cut.json()["degraded"] and cut.json()["engine"]["name"] == "paddleocr-vl"


def test_the_dashboard_shows_the_targets_of_the_policy_whichever_way_it_is_set(cluster: Cluster) -> None:
    """By `replicas` for the engines, and by Serve's `autoscaling_config` for the rasterizer."""
    for name in ("Rasterizer", "Recognizer-paddleocr-vl", "Recognizer-tesseract"):
        deployment = cluster.deployments()[name]
        assert deployment["target_num_replicas"] in (1, 2)
        policy = deployment["deployment_config"]["autoscaling_config"]["policy"]
        assert policy["policy_function"].replace(":", ".") == "serve_app.scheduling.page_scaling.PageScaling"
    logs = "".join(log.read_text() for log in cluster.folder.glob("session_latest/logs/serve/controller_*.log"))
    assert logs.count("Using custom autoscaling policy") >= 3 and "Traceback" not in logs
    named = re.findall(r"`(ray_serve_\w+)`", OPERATE.read_text())
    assert len(named) >= 3
    exported = httpx.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics").text
    for name in named:
        assert re.search(rf'^{name}{{.*deployment="Recognizer-tesseract"', exported, re.M), name


def test_the_dashboard_shows_the_application_and_no_key(cluster: Cluster) -> None:
    details = httpx.get(f"{cluster.dashboard}/api/serve/applications/").json()
    assert details["applications"]["ocr"]["status"] == "RUNNING"
    assert details["applications"]["ocr"]["docs_path"] == "/docs"
    assert KEY not in json.dumps(details)


def test_logs_are_json_lines_with_the_request_id(cluster: Cluster, russian_page: bytes) -> None:
    request_id = "operator-looks-for-this"
    answer = httpx.post(
        f"http://127.0.0.1:{cluster.port}/ocr",
        headers={"X-API-Key": KEY, "X-Request-ID": request_id},
        files={"file": russian_page},
        timeout=60,
    )
    document = answer.json()["id"]
    logs = list(cluster.folder.glob("session_latest/logs/serve/replica_ocr_Ingress_*.log"))
    deadline = time.monotonic() + 10  # the last line is written after the answer was sent
    while True:
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.endswith("}")]
        mine = [line["message"] for line in lines if line.get("request_id") == request_id]
        if any("POST /ocr 200" in message for message in mine):
            break
        assert time.monotonic() < deadline, mine
        time.sleep(0.2)
    assert any(document in message and "key 'key-" in message for message in mine), mine
    everything = "".join(log.read_text(errors="replace") for log in cluster.folder.glob("session_latest/logs/**/*.log"))
    assert KEY not in everything
    assert "Traceback" not in "".join(log.read_text() for log in logs)
