"""Nodes for GPU work and nodes for the rest: what runs where, and what a lost node of each kind costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.job_client import assert_whole, book, submit, wait_for_end
from tests.support.nodes import Nodes, until
from tests.support.pictures import noise_page

CLIENTS = 16
PAGES = 200  # of the job: it must not be at its end when the second node is lost
CPU_WORK = "cpu_work"
ON_GPU = {"name": "dummy", "num_gpus": 1, "page_s": 0.25, "max_batch": 1, "text": "Привет"}
ON_CPU = {"name": "tesseract", "replicas": 1}


@pytest.fixture
def nodes(short_tmp_path_factory: Callable[[], Path]) -> Iterator[Nodes]:
    nodes = Nodes(short_tmp_path_factory())
    yield nodes
    nodes.stop()


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
