"""Recognizers on nodes with GPUs: where they land, what they see of a GPU, and what a lost node costs.

The GPUs exist in Ray's books only, so the models run on the CPU. Ray treats them as it treats real ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pictures import noise_page
from tests.support.processes import kill_tree
from tests.support.service import Service
from tests.support.swift import free_port
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "vlm_server.py"
CLIENTS = 8
DEADLINE_S = 90.0
RECOGNIZER = "Recognizer-paddleocr-vl"

# A process of its own, because the test run's process belongs to the run's Ray already. It takes a command a line
# and answers each with a line of JSON. A node is known by the process of its raylet, the parent of its replicas.
NODES = """
import json, sys, time
import ray
from ray import serve
from ray.cluster_utils import Cluster
from tests.support.service import deploy

port = int(sys.argv[1])
answers, sys.stdout = sys.stdout, sys.stderr
ip = "127.0.0.2"  # Ray takes 127.0.0.1 in an address for the machine's outer one
cluster = Cluster()
# A node that is killed is missed within a second, not within half a minute.
checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
cluster.add_node(num_cpus=4, include_dashboard=False, node_ip_address=ip, _system_config=checks)
ray.init(address=cluster.address, _node_ip_address=ip, namespace="serve", log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
nodes = {}


def add(gpus):
    node = cluster.add_node(num_cpus=2, num_gpus=gpus, node_ip_address=ip)
    (raylet,) = node.all_processes["raylet"]
    nodes[raylet.process.pid] = node
    return raylet.process.pid


def lose(pid):
    cluster.remove_node(nodes.pop(pid), allow_graceful=False)


def run(settings):
    deploy(settings, name="gpus", port=port)


def states(deployment):
    return serve.status().applications["gpus"].deployments[deployment].replica_states


def clear(_):
    serve.delete("gpus")
    for pid in list(nodes):
        lose(pid)
    while ray.cluster_resources().get("GPU"):
        time.sleep(0.1)


for line in sys.stdin:
    command, argument = json.loads(line)
    result = {"add": add, "lose": lose, "run": run, "states": states, "clear": clear}[command](argument)
    print(json.dumps(result), file=answers, flush=True)
"""


class Nodes:
    """A Ray without GPUs, to which nodes with GPUs are added."""

    def __init__(self, folder: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_", "CUDA_"))}
        environment = {
            **clean,
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        port = free_port()
        self.service = Service("gpus", f"http://127.0.0.1:{port}/gpus")
        self._log = folder / "nodes.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", NODES, str(port)],
                cwd=folder, env=environment, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip

    def add(self, gpus: int = 1) -> int:
        """Add a node; the process id of its raylet."""
        return int(self._ask("add", gpus))

    def lose(self, raylet: int) -> None:
        """Kill all of a node at once, as a power cut does."""
        self._ask("lose", raylet)

    def run(self, settings: dict[str, Any]) -> None:
        """Deploy the application, and wait until its engines are ready."""
        self._ask("run", settings)
        self.service.wait_until_engines_are_ready()

    def states(self) -> dict[str, int]:
        """How many replicas of the recognizer are in which state, as Serve tells."""
        states: dict[str, int] = self._ask("states", RECOGNIZER)
        return states

    def clear(self) -> None:
        """Delete the application, then kill all nodes with GPUs."""
        self._ask("clear")

    def placement(self, deployment: str = RECOGNIZER) -> Counter[int]:
        """How many replicas of a deployment each node has, by the process id of its raylet."""
        parents = [replica.parent() for replica in self.service.replicas(deployment)]
        return Counter(parent.pid for parent in parents if parent is not None)

    def stop(self) -> None:
        kill_tree(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, command: str, argument: Any = None) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, argument]) + "\n")
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text()[-5000:]
        return json.loads(answer)


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


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not after {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.2)


async def test_a_replica_on_each_gpu_and_a_lost_node_costs_no_request(
    nodes: Nodes, tmp_path: Path, tiny_models: TinyModels
) -> None:
    gpus = {nodes.add(), nodes.add()}
    nodes.run(settings(tmp_path, tiny_models, {"backend": "native", "model_dir": str(tiny_models.vlm)}))
    assert nodes.states() == {"RUNNING": 2}
    assert nodes.placement() == dict.fromkeys(gpus, 1)

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
    assert nodes.placement() == {left: 1}, "there is no GPU for a second one"

    new = await asyncio.to_thread(nodes.add)
    await until(lambda: nodes.placement() == {left: 1, new: 1}, "a replica on the new node")
    await until(lambda: nodes.states() == {"RUNNING": 2}, "the new replica runs")
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
    assert nodes.placement() == {node: 2}

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
