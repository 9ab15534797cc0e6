"""Nodes with GPUs and nodes for the rest: what runs where, what a replica sees of a GPU, and what a lost node costs.

The GPUs exist in Ray's books only, so the models run on the CPU. Ray treats them as it treats real ones.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.job_client import assert_whole, book, submit, wait_for_end
from tests.support.nodes import DEADLINE_S, Nodes, until
from tests.support.pictures import noise_page
from tests.support.service import Service
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "vlm_server.py"
CLIENTS = 16
RECOGNIZER = "Recognizer-paddleocr-vl"
PAGES = 100  # of the job: it must not be at its end when the second node is lost
CPU_WORK = "cpu_work"
ON_GPU = {"name": "dummy", "num_gpus": 1, "page_s": 0.2, "max_batch": 1, "text": "Привет"}
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
        "spool_dir": str(folder / "spool"),
    }


async def test_each_replica_and_the_server_it_launches_see_one_gpu_of_their_own_and_end_together(
    nodes: Nodes, tmp_path: Path, tiny_models: TinyModels
) -> None:
    """Ray sets the variable in a replica that runs already, where only its children show it."""
    node = nodes.add(gpus=2)
    log = tmp_path / "server.log"
    command = [sys.executable, str(STAND_IN), "--port", "{port}", "--token-ms", "0"]
    nodes.run(
        settings(
            tmp_path,
            tiny_models,
            {"backend": "vllm-server", "launch": {"command": command, "log_file": str(log)}},
        )
    )
    assert nodes.placement(RECOGNIZER) == {node: 2}
    assert "READY" in log.read_text()

    def servers() -> dict[psutil.Process, list[psutil.Process]]:
        """The servers of each replica, without the processes that guard them."""
        return {
            replica: [child for child in replica.children(recursive=True) if is_server(child)]
            for replica in nodes.service.replicas(RECOGNIZER)
        }

    async def until_each_has_one_that_reads(what: str) -> dict[psutil.Process, psutil.Process]:
        def each_has_one() -> bool:
            return [len(of_replica) for of_replica in servers().values()] == [1, 1]

        await until(each_has_one, what)
        found = {replica: of_replica[0] for replica, of_replica in servers().items()}
        assert sorted(server.environ()["CUDA_VISIBLE_DEVICES"] for server in found.values()) == ["0", "1"]
        async with nodes.service.async_client() as http:
            deadline = time.monotonic() + DEADLINE_S
            while not all([await good(http) for _ in range(6)]):  # each replica probes its server in its own time
                assert time.monotonic() < deadline, what
        return found

    async def good(http: httpx.AsyncClient) -> bool:
        answer = await http.post("/ocr", files={"file": noise_page()})
        return answer.status_code == 200 and not answer.json()["degraded"]

    first = await until_each_has_one_that_reads("a server for each")
    min(first.values(), key=lambda server: server.pid).kill()
    second = await until_each_has_one_that_reads("the killed server is started again")
    assert second.keys() == first.keys(), "no replica was replaced for it"
    victim, server = next(iter(second.items()))
    victim.kill()
    await until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server ends with it")
    await until(lambda: nodes.states(RECOGNIZER) == {"RUNNING": 2}, "a new replica")
    third = await until_each_has_one_that_reads("a new replica has its own")
    assert victim not in third


def is_server(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:2] == [str(STAND_IN)]
    except psutil.NoSuchProcess:
        return False


class Load:
    """Clients who send pages, and who watches the pages of a job being stored, while nodes are lost."""

    def __init__(self, service: Service, output: Path, job_id: str) -> None:
        self._service, self._output, self._job_id = service, output, job_id
        self._done = asyncio.Event()
        self.answers: list[httpx.Response] = []
        self.first_stored: dict[str, int] = {}
        self._clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        self._watching = asyncio.create_task(self._watch())

    async def _client(self) -> None:
        async with self._service.async_client() as http:
            while not self._done.is_set():
                self.answers.append(await http.post("/ocr", files={"file": noise_page()}))

    def stored(self) -> dict[str, int]:
        """When each page of the job was stored."""
        folders = list(self._output.glob(f"**/{self._job_id}/page-results"))
        found = {}
        for file in (file for folder in folders for file in folder.glob("*.json")):
            with suppress(FileNotFoundError):  # a temporary name
                found[file.name] = file.stat().st_mtime_ns
        return found

    async def _watch(self) -> None:
        while True:
            for page, at in (await asyncio.to_thread(self.stored)).items():
                self.first_stored.setdefault(page, at)
            await asyncio.sleep(0.1)

    async def until_requests_go_on(self) -> None:
        enough = len(self.answers) + CLIENTS + 1  # one of them, at the least, was sent after this moment
        await until(lambda: len(self.answers) >= enough, "requests go on")

    async def until_the_job_goes_on(self) -> None:
        pages = len(self.first_stored) + 5
        await until(
            lambda: self._watching.done() or len(self.first_stored) >= pages,
            f"the job goes on, after {len(self.first_stored)} pages",
        )
        assert not self._watching.done(), self._watching.exception()

    async def end(self) -> None:
        """End the clients: none of their requests has failed."""
        self._done.set()
        await asyncio.gather(*self._clients)
        failed = [(answer.status_code, answer.text) for answer in self.answers if answer.status_code != 200]
        assert not failed, f"{len(failed)} of {len(self.answers)} failed: {failed[:3]}"

    def end_watching(self) -> None:
        """Once the job is at its end: no page was stored a second time."""
        self._watching.cancel()
        after = {page: at for page, at in self.stored().items() if page in self.first_stored}
        assert after == self.first_stored


async def test_a_lost_node_costs_no_request_and_no_page_of_a_job_and_a_new_one_gets_a_replica(
    nodes: Nodes, tmp_path: Path
) -> None:
    """No number of replicas is set for the engine: it has as many as there are GPUs."""
    gpus = {nodes.add(gpus=1), nodes.add(gpus=1)}
    cpus = {nodes.add(resources={CPU_WORK: 1}), nodes.add(resources={CPU_WORK: 1})}
    nodes.run(
        {
            "engines": [ON_GPU, ON_CPU],
            "cpu_nodes": CPU_WORK,
            "raster": {"replicas": 2},
            "store": {"kind": "folder", "path": str(tmp_path / "output")},
            "temp_dir": str(tmp_path / "temp"),
            "spool_dir": str(tmp_path / "spool"),
        }
    )
    assert nodes.placement("Recognizer-dummy") == dict.fromkeys(gpus, 1)
    for deployment in ("Ingress", "Jobs", "Rasterizer", "Recognizer-tesseract"):
        assert nodes.placement(deployment).keys() <= cpus, deployment

    with nodes.service.client() as http:
        job_id = submit(http, book(PAGES))
        load = Load(nodes.service, tmp_path / "output", job_id)
        await load.until_requests_go_on()
        await load.until_the_job_goes_on()
        await asyncio.to_thread(nodes.lose, min(gpus))
        await load.until_requests_go_on()
        await load.until_the_job_goes_on()
        left = {max(gpus): 1}
        assert nodes.placement("Recognizer-dummy") == left, "there is no GPU for a second one"
        # Not the node of the ingress, which would take its own requests with it.
        (lost,) = cpus - nodes.placement("Ingress").keys()
        await asyncio.to_thread(nodes.lose, lost)
        assert len(load.first_stored) < PAGES
        await load.until_requests_go_on()
        await load.until_the_job_goes_on()
        new = await asyncio.to_thread(nodes.add, gpus=1)
        await until(lambda: nodes.placement("Recognizer-dummy") == {**left, new: 1}, "a replica on the new node")
        await until(lambda: nodes.states("Recognizer-dummy") == {"RUNNING": 2}, "the new replica runs")
        await load.until_requests_go_on()
        await load.end()
        job = await asyncio.to_thread(wait_for_end, http, job_id)
        load.end_watching()
        assert_whole(http, job, PAGES)
    assert nodes.placement("Rasterizer").keys() <= cpus - {lost}
