"""`serve deploy` and `serve status` against a Ray that an operator runs."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import subprocess
import time
from typing import Any

import httpx

from tests.support.cluster import ROOT, Cluster
from tests.support.documentation import code_blocks
from tests.support.nodes import until
from tests.support.pictures import noise_page
from tests.support.service import KEY, KEYS

OPERATE = ROOT / "docs" / "operate.md"
DUMMY_CLIENTS = 3
NO_MODEL = "there is no such model"
PAUSE_S = 1  # between the requests of a client, so that the cores have time for what starts


def test_serve_status_shows_what_serve_deploy_has_made(cluster: Cluster) -> None:
    told = cluster.status()["applications"]["ocr"]
    assert told["status"] == "RUNNING"
    deployments = told["deployments"]
    assert set(deployments) == {
        "Ingress", "Jobs", "Rasterizer", "Recognizer-paddleocr-vl", "Recognizer-tesseract", "Recognizer-dummy",
    }  # fmt: skip
    assert {deployment["status"] for deployment in deployments.values()} == {"HEALTHY"}
    assert deployments["Ingress"]["replica_states"] == {"RUNNING": 2}


async def test_deploys_under_load_lose_no_request_also_of_a_version_whose_engine_cannot_load(
    cluster: Cluster, russian_page: bytes
) -> None:
    """The old replica stays in its place, also while the former version is back, until the next one is deployed.

    Requests go through HAProxy, each once.
    """
    (old,) = cluster.service.replicas("Recognizer-dummy")
    stop = asyncio.Event()

    async def client(engine: str) -> list[httpx.Response]:
        answers = []
        async with cluster.service.async_client() as http:
            while not stop.is_set():
                answers.append(await http.post("/ocr", files={"file": noise_page()}, data={"engine": engine}))
                await asyncio.sleep(PAUSE_S)
        return answers

    engines = ["paddleocr-vl", "tesseract", *["dummy"] * DUMMY_CLIENTS]
    clients = [asyncio.create_task(client(engine)) for engine in engines]
    await asyncio.sleep(2)
    former = cluster.config
    config = copy.deepcopy(cluster.config)
    vl, tesseract, dummy = config["applications"][0]["args"]["engines"]
    dummy["load_error"] = NO_MODEL
    await asyncio.to_thread(cluster.deploy, config)
    await until(lambda: NO_MODEL in told(cluster, "Recognizer-dummy"), "the reason")
    await asyncio.to_thread(cluster.deploy, former)
    await asyncio.to_thread(cluster.wait_until_running)
    assert [replica.pid for replica in cluster.service.replicas("Recognizer-dummy")] == [old.pid]
    del dummy["load_error"]
    vl["max_new_tokens"] = 3
    tesseract["languages"] = ["rus"]
    dummy["text"] = "after"
    await asyncio.to_thread(cluster.deploy, config)
    await asyncio.to_thread(cluster.wait_until_running)
    await asyncio.sleep(2)
    stop.set()
    of_clients = await asyncio.gather(*clients)
    answers = [answer for of_client in of_clients for answer in of_client]
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert len(answers) >= 4 * len(clients) and not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"
    first, *_, last = (answer.json()["text"] for answer in of_clients[-1])
    assert (first, last) == ("before", "after")
    async with cluster.service.async_client() as http:
        refused = await http.post("/ocr", files={"file": russian_page}, data={"engine": "tesseract", "language": "eng"})
        cut = await http.post("/ocr", files={"file": russian_page})
    assert refused.status_code == 422, "the changed setting is in force"
    assert cut.json()["degraded"] and cut.json()["engine"]["name"] == "paddleocr-vl"


def told(cluster: Cluster, deployment: str) -> str:
    """Return what `serve status` says of a deployment; nothing while the application is being built."""
    return str(cluster.deployments().get(deployment, {}).get("message", ""))


def test_the_dashboard_shows_the_targets_of_the_policy_whichever_way_it_is_set(cluster: Cluster) -> None:
    """By `replicas` for the engines, and by Serve's `autoscaling_config` for the rasterizer."""
    for name in ("Rasterizer", "Recognizer-paddleocr-vl", "Recognizer-tesseract"):
        deployment = cluster.deployments()[name]
        assert deployment["target_num_replicas"] in (1, 2)
        policy = deployment["deployment_config"]["autoscaling_config"]["policy"]
        assert policy["policy_function"].replace(":", ".") == "serve_app.scheduling.page_scaling.PageScaling"
    logs = "".join(log.read_text() for log in cluster.folder.glob("session_latest/logs/serve/controller_*.log"))
    assert logs.count("Using custom autoscaling policy") >= 3
    tracebacks = [line for line in logs.splitlines() if "Traceback" in line and NO_MODEL not in line]
    assert not tracebacks, tracebacks[0]
    named = re.findall(r"`(ray_serve_\w+)`", OPERATE.read_text())
    assert len(named) >= 3
    exported = httpx.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics").text
    for name in named:
        assert re.search(rf'^{name}{{.*deployment="Recognizer-tesseract"', exported, re.M), name


def test_the_documented_command_lists_what_prometheus_reads(cluster: Cluster) -> None:
    (command,) = [code for _, code in code_blocks(OPERATE.read_text()) if code.startswith("curl ")]
    assert "$(cat ~/.ray/auth_token)" in command, "this Ray asks for no token, and ignores one"
    (cluster.folder / ".ray").mkdir(exist_ok=True)
    (cluster.folder / ".ray" / "auth_token").write_text("0" * 64)
    done = subprocess.run(
        ["bash", "-c", command.replace("http://127.0.0.1:8265", cluster.dashboard)],
        env=cluster.environment, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    targets = [target for group in json.loads(done.stdout) for target in group["targets"]]
    assert str(cluster.metrics_port) in [target.rpartition(":")[2] for target in targets]


def test_the_dashboard_shows_the_application_and_no_key(cluster: Cluster) -> None:
    details = httpx.get(f"{cluster.dashboard}/api/serve/applications/").json()
    assert details["applications"]["ocr"]["status"] == "RUNNING"
    assert details["applications"]["ocr"]["docs_path"] == "/docs"
    assert KEY not in json.dumps(details)


def test_logs_are_json_lines_with_the_request_id(cluster: Cluster, russian_page: bytes) -> None:
    request_id = "operator-looks-for-this"
    nameless = KEYS.rpartition(",")[2]
    answer = httpx.post(
        f"{cluster.service.url}/ocr",
        headers={"X-API-Key": nameless, "X-Request-ID": request_id},
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
    (line,) = [message for message in mine if document in message]
    assert line.startswith("POST /ocr 200: key=key-") and "pages=1" in line, "one line says it all"
    everything = "".join(log.read_text(errors="replace") for log in cluster.folder.glob("session_latest/logs/**/*.log"))
    assert KEY not in everything and nameless not in everything
    assert "Traceback" not in "".join(log.read_text() for log in logs)


def test_a_request_that_asks_to_be_traced_has_its_stages_in_the_files_of_all_its_replicas(
    cluster: Cluster, russian_page: bytes
) -> None:
    trace_id = "5b8aa5a2d2c872e8321cf37308d69df2"
    headers = {"X-API-Key": KEY, "X-Request-ID": "traced", "traceparent": f"00-{trace_id}-051581bf3cb55c13-01"}
    fields = {"engine": "tesseract"}
    url, file = f"{cluster.service.url}/ocr", {"file": russian_page}
    assert httpx.post(url, headers=headers, files=file, data=fields, timeout=60).status_code == 200
    assert httpx.post(url, headers={"X-API-Key": KEY}, files=file, data=fields, timeout=60).status_code == 200
    stages = {"receive", "rasterize", "queue", "recognize", "store", "write_output"}
    deadline = time.monotonic() + 30  # the last span ends after the answer was sent
    while stages - {span["name"] for span in spans_of(cluster)} and time.monotonic() < deadline:
        time.sleep(0.2)
    spans = spans_of(cluster)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id}"}, "the other request is not traced"
    assert stages <= {span["name"] for span in spans}
    assert {span["attributes"]["request_id"] for span in spans if span["name"] in stages} == {"traced"}
    written_by = {"receive": "Ingress", "rasterize": "Rasterizer", "recognize": "Recognizer", "store": "Ingress"}
    assert all(f"_{written_by[span['name']]}" in span["file"] for span in spans if span["name"] in written_by)


def spans_of(cluster: Cluster) -> list[dict[str, Any]]:
    """What Serve has exported, each with the name of its file. A span is indented JSON from its line `{` to its line `}`."""
    return [
        {**json.loads(text + "}"), "file": file.name}
        for file in cluster.folder.glob("session_latest/logs/serve/spans/*")
        for text in file.read_text().split("\n}\n")[:-1]
    ]
