"""Everything is bounded, and what is over a bound gets a clear answer at once. What Serve has a part in is in tests/service."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from tests.support.service import Service


@pytest.fixture(scope="module")
def small_page() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (60, 60), "white").save(stream, "PNG")
    return stream.getvalue()


def assert_try_again(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code), answer.text
    assert int(answer.headers["retry-after"]) > 0


async def phase_after(client: httpx.AsyncClient, phase: str) -> str:
    """What health tells of the default engine once it tells no longer that it is in this phase."""
    deadline = time.monotonic() + 20
    while True:
        told: str = (await client.get("/health")).json()["paddleocr"]
        if told != phase:
            return told
        assert time.monotonic() < deadline, f"{phase} for 20 s"
        await asyncio.sleep(0.1)


async def test_row_44_a_full_queue_is_503_and_what_was_accepted_is_finished(
    deployed: Callable[..., Service], small_page: bytes
) -> None:
    engine = {"name": "dummy", "replicas": 1, "page_s": 0.5, "max_batch": 1}
    service = deployed({"engines": [engine], "limits": {"queue": 3}})
    service.wait_until_engines_are_ready()
    async with service.async_client() as client:
        answers = await asyncio.gather(*(client.post("/ocr", files={"file": small_page}) for _ in range(20)))
    finished = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(finished) <= 10
    for answer in refused:
        assert_try_again(answer, "queue_full")


async def test_too_many_requests_are_refused_before_they_are_read(
    deployed: Callable[..., Service], small_page: bytes
) -> None:
    engine = {"name": "dummy", "replicas": 1, "page_s": 3, "max_batch": 2}
    service = deployed({"engines": [engine], "limits": {"requests": 2}})
    service.wait_until_engines_are_ready()
    async with service.async_client() as client:
        held = [asyncio.create_task(client.post("/ocr", files={"file": small_page})) for _ in range(2)]
        await asyncio.sleep(0.5)
        assert_try_again(await client.post("/ocr", files={"file": b"x" * 5_000_000}), "queue_full")
        assert not any(answer.done() for answer in held), "it did not wait for its turn"
        assert [(await answer).status_code for answer in held] == [200, 200]


async def test_a_request_that_meets_a_loading_engine_waits_and_then_works(
    deployed: Callable[..., Service], small_page: bytes
) -> None:
    service = deployed({"engines": [{"name": "dummy", "replicas": 1, "load": "lazy", "load_s": 3}]})
    async with service.async_client() as client:
        assert (await client.get("/health")).json()["paddleocr"] == "not_initialized"
        assert (await client.get("/readyz")).status_code == 200, "the first page loads it"
        answer = asyncio.create_task(client.post("/ocr", files={"file": small_page}))
        assert await phase_after(client, "not_initialized") == "initializing"
        assert (await answer).status_code == 200
        assert await phase_after(client, "initializing") == "initialized"


async def test_row_44_an_engine_that_loads_for_too_long_is_503(
    deployed: Callable[..., Service], small_page: bytes
) -> None:
    engine = {"name": "dummy", "replicas": 1, "load": "lazy", "load_s": 4}
    service = deployed({"engines": [engine], "limits": {"engine_wait_s": 0.5}})
    async with service.async_client() as client:
        assert_try_again(await client.post("/ocr", files={"file": small_page}), "engine_loading")


async def test_an_engine_that_cannot_load_says_why_in_health_and_in_the_answer(
    deployed: Callable[..., Service], small_page: bytes
) -> None:
    engine = {"name": "dummy", "replicas": 1, "load_error": "the model is missing"}
    service = deployed({"engines": [engine]})
    async with service.async_client() as client:
        assert_try_again(await client.post("/ocr", files={"file": small_page}), "engine_unavailable")
        for _ in range(50):
            health = (await client.get("/health")).json()
            if health["paddleocr"] == "failed":
                break
            await asyncio.sleep(0.1)
        assert_try_again(await client.get("/readyz"), "service_unavailable")
        assert (await client.get("/livez")).status_code == 200
    assert (health["status"], health["paddleocr"]) == ("degraded", "failed")
    assert health["engines"]["dummy"]["reason"] == "the model is missing"


async def test_a_request_over_its_time_is_504(deployed: Callable[..., Service], small_page: bytes) -> None:
    engine = {"name": "dummy", "replicas": 1, "page_s": 4, "max_batch": 1}
    service = deployed({"engines": [engine], "limits": {"request_s": 1, "page_s": 60}})
    service.wait_until_engines_are_ready()
    async with service.async_client() as client:
        answer = await client.post("/ocr", files={"file": small_page})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
