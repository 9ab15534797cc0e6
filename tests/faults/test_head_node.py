"""Ray's head node dies and comes back, with its state in a real Redis; requests and jobs on another node go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.head_node import WORK, HeadAndNode
from tests.support.job_client import assert_whole, book, job_of, submit, wait_for_end
from tests.support.nodes import until
from tests.support.pictures import noise_page

CLIENTS = 4
PAGES = 80
DEPLOYMENTS = ("Ingress", "Jobs", "Rasterizer", "Recognizer-dummy")


@pytest.fixture
def ray(short_tmp_path_factory: Callable[[], Path]) -> Iterator[HeadAndNode]:
    ray = HeadAndNode(short_tmp_path_factory())
    yield ray
    ray.stop()


async def test_a_head_node_that_dies_costs_no_request_and_no_page_and_its_successor_replaces_what_died(
    ray: HeadAndNode, tmp_path: Path
) -> None:
    ray.run(
        {
            "engines": [{"name": "dummy", "replicas": 1, "page_s": 0.2, "max_batch": 1, "text": "Привет"}],
            "cpu_nodes": WORK,
            "ingress_replicas": 2,
            "jobs": {"replicas": 2},
            "store": {"kind": "folder", "path": str(tmp_path / "output")},
            "temp_dir": str(tmp_path / "temp"),
            "spool_dir": str(tmp_path / "spool"),
        }
    )
    replicas = pids(ray)
    answers: list[httpx.Response] = []
    stop = asyncio.Event()

    async def client() -> None:
        async with ray.service.async_client() as http:
            while not stop.is_set():
                answers.append(await http.post("/ocr", files={"file": noise_page()}))

    async def until_all_goes_on(what: str) -> None:
        """Pages of requests that were sent after this moment, and of the job."""
        enough, done = len(answers) + 2 * CLIENTS + 1, job_of(http, job_id)["progress"]["done"]
        await until(lambda: len(answers) >= enough, f"requests go on: {what}")
        await until(lambda: job_of(http, job_id)["progress"]["done"] > done + 2, f"the job goes on: {what}")

    with ray.service.client() as http:
        job_id = submit(http, book(PAGES))
        clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        await until_all_goes_on("with the head")
        await asyncio.to_thread(ray.kill_head)
        await until_all_goes_on("without it")
        await asyncio.to_thread(ray.start_head_again)
        await asyncio.to_thread(ray.wait_until_running)
        await until_all_goes_on("with the new one")
        assert pids(ray) == replicas, "the new head takes over what runs"
        victim = ray.service.replicas("Ingress")[0]
        stop.set()
        await asyncio.gather(*clients)
        victim.kill()
        await until(lambda: len(set(pids(ray)) - {victim.pid}) == len(replicas), "a new replica for one that died")
        assert_whole(http, await asyncio.to_thread(wait_for_end, http, job_id), PAGES)
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"


def pids(ray: HeadAndNode) -> list[int]:
    return sorted(replica.pid for name in DEPLOYMENTS for replica in ray.service.replicas(name))
