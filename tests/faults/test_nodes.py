"""Nodes with GPUs and nodes for the rest: what runs where, what a replica sees of a GPU, and what a lost node costs.

The GPUs exist in Ray's books only, so the models run on the CPU. Ray treats them as it treats real ones.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.job_client import assert_whole, book, submit, wait_for_end
from tests.support.nodes import Nodes, until
from tests.support.pictures import noise_page
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "vlm_server.py"
CLIENTS = 16
VL_CLIENTS = 8  # the tiny models are slow
RECOGNIZER = "Recognizer-paddleocr-vl"
PAGES = 240  # of the job: it must not be at its end when the second node is lost
CPU_WORK = "cpu_work"
ON_GPU = {"name": "dummy", "num_gpus": 1, "page_s": 0.12, "max_batch": 1, "text": "Привет"}
ON_CPU = {"name": "tesseract", "replicas": 1}


@pytest.fixture(scope="module")
def nodes_of_module(short_tmp_path_factory: Callable[[], Path]) -> Iterator[Nodes]:
    nodes = Nodes(short_tmp_path_factory())
    yield nodes
    nodes.stop()


@pytest.fixture
def nodes(nodes_of_module: Nodes) -> Iterator[Nodes]:
    """A Ray of one node without GPUs, whatever a test before has added to it."""
    yield nodes_of_module
    nodes_of_module.clear()


def settings(folder: Path, models: TinyModels, vlm: dict[str, Any]) -> dict[str, Any]:
    engine = {
        "name": "paddleocr-vl",
        "device": "cpu",
        "num_gpus": 1,
        "layout_model_dir": str(models.layout),
        "vlm": vlm,
    }
    return {
        "engines": [engine],  # no number of replicas: as many as there are GPUs
        "store": {"kind": "folder", "path": str(folder / "output")},
        "temp_dir": str(folder / "temp"),
    }


async def test_a_replica_on_each_gpu_and_a_lost_node_costs_no_request(
    nodes: Nodes, tmp_path: Path, tiny_models: TinyModels
) -> None:
    gpus = {nodes.add(gpus=1), nodes.add(gpus=1)}
    nodes.run(settings(tmp_path, tiny_models, {"backend": "native", "model_dir": str(tiny_models.vlm)}))
    assert nodes.states(RECOGNIZER) == {"RUNNING": 2}
    assert nodes.placement(RECOGNIZER) == dict.fromkeys(gpus, 1)

    done = asyncio.Event()
    answers: list[httpx.Response] = []

    async def client() -> None:
        async with nodes.service.async_client() as http:
            while not done.is_set():
                answers.append(await http.post("/ocr", files={"file": noise_page()}))

    async def until_answered(more: int) -> None:
        enough = len(answers) + more
        await until(lambda: len(answers) >= enough or any(each.done() for each in clients), f"{more} more answers")

    clients = [asyncio.create_task(client()) for _ in range(VL_CLIENTS)]
    await until_answered(2 * VL_CLIENTS)
    # Not the node of the ingress, which would take its own requests with it.
    lost = min(gpus - nodes.placement("Ingress").keys())
    (left,) = gpus - {lost}
    await asyncio.to_thread(nodes.lose, lost)
    await until_answered(3 * VL_CLIENTS)
    assert nodes.placement(RECOGNIZER) == {left: 1}, "there is no GPU for a second one"

    new = await asyncio.to_thread(nodes.add, gpus=1)
    await until(lambda: nodes.placement(RECOGNIZER) == {left: 1, new: 1}, "a replica on the new node")
    await until(lambda: nodes.states(RECOGNIZER) == {"RUNNING": 2}, "the new replica runs")
    await until_answered(2 * VL_CLIENTS)
    done.set()
    await asyncio.gather(*clients)
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"


async def test_each_replica_and_the_server_it_launches_see_one_gpu_of_their_own(
    nodes: Nodes, tmp_path: Path, tiny_models: TinyModels
) -> None:
    """Ray sets the variable in a replica that runs already, where only its children show it."""
    node = nodes.add(gpus=2)
    launch = {"command": [sys.executable, str(STAND_IN), "--port", "{port}"], "log_file": str(tmp_path / "server.log")}
    nodes.run(settings(tmp_path, tiny_models, {"backend": "vllm-server", "launch": launch}))
    assert nodes.placement(RECOGNIZER) == {node: 2}

    servers = [
        child
        for replica in nodes.service.replicas(RECOGNIZER)
        for child in replica.children(recursive=True)
        if child.cmdline()[1:2] == [str(STAND_IN)]
    ]
    assert sorted(server.environ()["CUDA_VISIBLE_DEVICES"] for server in servers) == ["0", "1"]
    async with nodes.service.async_client() as http:
        answer = await http.post("/ocr", files={"file": noise_page()})
    assert answer.status_code == 200, answer.text


async def test_a_lost_node_costs_no_request_and_stores_no_page_of_a_job_twice(nodes: Nodes, tmp_path: Path) -> None:
    gpus = {nodes.add(gpus=1), nodes.add(gpus=1)}
    cpus = {nodes.add(resources={CPU_WORK: 1}), nodes.add(resources={CPU_WORK: 1})}
    nodes.run(
        {
            "engines": [ON_GPU, ON_CPU],
            "cpu_nodes": CPU_WORK,
            "raster": {"replicas": 2},
            "store": {"kind": "folder", "path": str(tmp_path / "output")},
            "temp_dir": str(tmp_path / "temp"),
        }
    )
    assert nodes.placement("Recognizer-dummy") == dict.fromkeys(gpus, 1)
    for deployment in ("Ingress", "Jobs", "Rasterizer", "Recognizer-tesseract"):
        assert nodes.placement(deployment).keys() <= cpus, deployment

    done = asyncio.Event()
    answers: list[httpx.Response] = []
    first_stored: dict[str, int] = {}

    async def client() -> None:
        async with nodes.service.async_client() as http:
            while not done.is_set():
                answers.append(await http.post("/ocr", files={"file": noise_page()}))

    def stored() -> dict[str, int]:
        """When each page of the job was stored."""
        folders = list((tmp_path / "output").glob(f"**/{job_id}/page-results"))
        found = {}
        for file in (file for folder in folders for file in folder.glob("*.json")):
            with suppress(FileNotFoundError):  # a temporary name
                found[file.name] = file.stat().st_mtime_ns
        return found

    async def watch() -> None:
        while True:
            for page, at in (await asyncio.to_thread(stored)).items():
                first_stored.setdefault(page, at)
            await asyncio.sleep(0.1)

    async def until_work_goes_on() -> None:
        """Both the requests and the job."""
        enough, pages = len(answers) + 2 * CLIENTS, len(first_stored) + 5
        await until(lambda: len(answers) >= enough, "requests go on")
        await until(
            lambda: watching.done() or len(first_stored) >= pages, f"the job goes on, after {len(first_stored)} pages"
        )
        assert not watching.done(), watching.exception()

    with nodes.service.client() as http:
        job_id = submit(http, book(PAGES))
        clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        watching = asyncio.create_task(watch())
        await until_work_goes_on()
        await asyncio.to_thread(nodes.lose, min(gpus))
        await until_work_goes_on()
        # Not the node of the ingress, which would take its own requests with it.
        (lost,) = cpus - nodes.placement("Ingress").keys()
        await asyncio.to_thread(nodes.lose, lost)
        assert len(first_stored) < PAGES
        await until_work_goes_on()
        done.set()
        await asyncio.gather(*clients)
        job = await asyncio.to_thread(wait_for_end, http, job_id)
        watching.cancel()
        assert_whole(http, job, PAGES)
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"
    assert {page: at for page, at in stored().items() if page in first_stored} == first_stored, (
        "no page is stored twice"
    )
    assert nodes.placement("Rasterizer").keys() <= cpus - {lost}
