"""Replicas follow the pages, in a real Serve: up under load, down after it, and to zero."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from ray import serve

from tests.support.job_client import book
from tests.support.pictures import noise_page
from tests.support.service import Service

RANGE = {"target_wait_s": 1, "upscale_delay_s": 1, "downscale_delay_s": 4}
ENGINE = {"name": "dummy", "page_s": 0.3, "max_batch": 1, "text": "Ёж"}
DEPLOYMENT = "Recognizer-dummy"


def running(service: Service) -> int:
    deployments = serve.status().applications[service.name].deployments
    return sum(count for state, count in deployments[DEPLOYMENT].replica_states.items() if state == "RUNNING")


async def until(happened: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(happened):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.3)


@pytest.fixture
def scaled(deployed: Callable[..., Service]) -> Service:
    return deployed({"engines": [ENGINE | {"load_s": 1, "replicas": {"min": 0, "max": 3, **RANGE}}]})


async def test_replicas_come_with_pages_and_go_with_them_without_losing_a_request(scaled: Service) -> None:
    await until(lambda: running(scaled) == 0, "what asks for the engine's state keeps it running")
    async with scaled.async_client() as client:
        submitted = await client.post("/jobs", files={"file": book(3)})
        assert submitted.status_code == 202, submitted.text
        answer = await client.post("/ocr", files={"file": noise_page(1)})
        assert (answer.status_code, answer.json()["text"]) == (200, "Ёж"), answer.text
        job: dict[str, Any] = {}
        deadline = time.monotonic() + 90
        while not job.get("ended"):
            assert time.monotonic() < deadline, job
            await asyncio.sleep(0.3)
            job = (await client.get(f"/jobs/{submitted.json()['id']}")).json()
        assert (job["state"], job["progress"]) == ("done", {"done": 3, "failed": 0, "total": 3}), job
        assert (await client.get("/health")).status_code == 200

    stop = asyncio.Event()

    async def caller(number: int) -> list[httpx.Response]:
        answers = []
        async with scaled.async_client() as client:
            while not stop.is_set():
                answers.append(await client.post("/ocr", files={"file": noise_page(number)}))
        return answers

    callers = [asyncio.create_task(caller(number)) for number in range(12)]
    await until(lambda: running(scaled) == 3, "no replicas were added for twelve callers")
    stop.set()
    answers = [answer for answers in await asyncio.gather(*callers) for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    await until(lambda: running(scaled) == 0, "replicas did not stop when there were no pages")
