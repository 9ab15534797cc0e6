"""Recognizers on nodes with GPUs: where they land, what they see of a GPU, and what a lost node costs.

The GPUs exist in Ray's books only, so the models run on the CPU. Ray treats them as it treats real ones.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.nodes import Nodes, until
from tests.support.pictures import noise_page
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "vlm_server.py"
CLIENTS = 8
RECOGNIZER = "Recognizer-paddleocr-vl"


@pytest.fixture(scope="module")
def nodes_of_module(short_tmp_path_factory: Callable[[], Path]) -> Iterator[Nodes]:
    nodes = Nodes(short_tmp_path_factory())
    yield nodes
    nodes.stop()


@pytest.fixture
def nodes(nodes_of_module: Nodes) -> Iterator[Nodes]:
    """A Ray without GPUs, whatever a test before has added to it."""
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

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await until_answered(2 * CLIENTS)
    # Not the node of the ingress, which would take its own requests with it.
    lost = min(gpus - nodes.placement("Ingress").keys())
    (left,) = gpus - {lost}
    await asyncio.to_thread(nodes.lose, lost)
    await until_answered(3 * CLIENTS)
    assert nodes.placement(RECOGNIZER) == {left: 1}, "there is no GPU for a second one"

    new = await asyncio.to_thread(nodes.add, gpus=1)
    await until(lambda: nodes.placement(RECOGNIZER) == {left: 1, new: 1}, "a replica on the new node")
    await until(lambda: nodes.states(RECOGNIZER) == {"RUNNING": 2}, "the new replica runs")
    await until_answered(2 * CLIENTS)
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
