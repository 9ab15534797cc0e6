"""Processes die in the middle of work; no request fails for it."""

from __future__ import annotations

import asyncio
import io
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from ray import serve

from tests.support.pictures import noise_page, png_of
from tests.support.service import Service

CLIENTS = 16
DUMMY = {"engine": "dummy"}
SENT: dict[str, Any] = {"files": {"file": noise_page()}, "data": DUMMY}


@pytest.fixture
def recognizing(service: Service) -> Service:
    """The service, with every part of it there and ready, whatever a test before has killed."""
    expected = {"Ingress": 2, "Jobs": 2, "Rasterizer": 1, "Recognizer-dummy": 2, "Recognizer-tesseract": 2}
    deadline = time.monotonic() + 60
    while True:
        told = serve.status().applications[service.name].deployments
        states = {name: deployment.replica_states for name, deployment in told.items()}
        there = {name: len(service.replicas(name)) for name in expected}
        # A replica that was killed a moment ago still counts as running in Serve's books, but has no process.
        if there == expected and states == {name: {"RUNNING": count} for name, count in expected.items()}:
            break
        assert time.monotonic() < deadline, (there, states)
        time.sleep(0.2)
    service.wait_until_engines_are_ready()
    return service


async def load(service: Service, seconds: float, meanwhile: Callable[[], Awaitable[None]]) -> list[httpx.Response]:
    """Sixteen clients send pages, as fast as they are answered, while something happens; answers as they came.

    The time counts, and it happens, from when there are as many answers as clients: a slow machine first starts
    a decoder. The clients go on for a moment after it has happened.
    """
    deadline = float("inf")
    answers: list[httpx.Response] = []
    flowing = asyncio.Event()

    async def one_client() -> None:
        async with service.async_client() as client:
            while time.monotonic() < deadline:
                answers.append(await client.post("/ocr", **SENT))
                if len(answers) >= CLIENTS:
                    flowing.set()

    clients = [asyncio.create_task(one_client()) for _ in range(CLIENTS)]
    await asyncio.wait([asyncio.create_task(flowing.wait()), *clients], return_when=asyncio.FIRST_COMPLETED)
    until = time.monotonic() + seconds
    await meanwhile()
    deadline = max(until, time.monotonic() + 2)
    await asyncio.gather(*clients)
    return answers


def assert_none_failed(answers: list[httpx.Response]) -> None:
    assert len(answers) > CLIENTS
    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"


def kill_one(service: Service, deployment: str) -> psutil.Process:
    victim = random.Random(0).choice(service.replicas(deployment))
    victim.send_signal(signal.SIGKILL)
    return victim


async def test_row_37_an_image_that_kills_its_decoder_costs_only_itself(recognizing: Service) -> None:
    """The decoder's process is killed, as a crash would, while it works on one large image."""
    stream = io.BytesIO()
    # As slow to decode as its bytes allow: the limit for a body is 12 MB.
    Image.effect_noise((6000, 6000), 50).save(stream, "JPEG", quality=30, progressive=True)
    large = stream.getvalue()
    (rasterizer,) = recognizing.replicas("Rasterizer")
    async with recognizing.async_client() as client:
        await client.post("/ocr", **SENT)  # so that there is a decoder
        (decoder,) = rasterizer.children()

        before = decoder.cpu_times().user

        def crash() -> None:
            deadline = time.monotonic() + 30
            while decoder.cpu_times().user - before < 0.2:  # until it is in the middle of the large image
                assert time.monotonic() < deadline, "the large image is not decoded"
                time.sleep(0.005)
            decoder.send_signal(signal.SIGSEGV)

        work = [asyncio.create_task(client.post("/ocr", files={"file": large}, data=DUMMY))]
        work += [asyncio.create_task(client.post("/ocr", files={"file": noise_page(n)}, data=DUMMY)) for n in range(6)]
        await asyncio.to_thread(crash)
        hostile, *others = await asyncio.gather(*work)
        assert (hostile.status_code, hostile.json()["error"]["code"]) == (422, "corrupt_document"), hostile.text
        assert [answer.status_code for answer in others] == [200] * 6
        assert (await client.post("/ocr", **SENT)).status_code == 200
    assert [replica.pid for replica in recognizing.replicas("Rasterizer")] == [rasterizer.pid], "the replica lives"


async def test_killing_one_of_two_recognizers_costs_no_request(recognizing: Service) -> None:
    assert len(recognizing.replicas("Recognizer-dummy")) == 2

    async def kills() -> None:
        for _ in range(2):
            await asyncio.sleep(1.5)
            kill_one(recognizing, "Recognizer-dummy")

    assert_none_failed(await load(recognizing, 8, kills))


async def test_killing_every_recognizer_costs_no_request(recognizing: Service) -> None:
    async def kills() -> None:
        await asyncio.sleep(1.5)
        for replica in recognizing.replicas("Recognizer-dummy"):
            replica.kill()

    assert_none_failed(await load(recognizing, 6, kills))


async def test_killing_the_rasterizer_costs_no_request(recognizing: Service) -> None:
    async def kills() -> None:
        await asyncio.sleep(1.5)
        kill_one(recognizing, "Rasterizer")

    assert_none_failed(await load(recognizing, 6, kills))


async def test_a_killed_ingress_is_back_and_loses_only_its_own_requests(recognizing: Service) -> None:
    victim = kill_one(recognizing, "Ingress")
    deadline = time.monotonic() + 40
    async with recognizing.async_client() as client:
        while time.monotonic() < deadline:
            answers = [await client.post("/ocr", **SENT) for _ in range(4)]
            replicas = recognizing.replicas("Ingress")
            if all(answer.status_code == 200 for answer in answers) and len(replicas) == 2:
                break
            await asyncio.sleep(0.2)
        else:
            raise AssertionError("the ingress is not back")
    assert victim.pid not in [replica.pid for replica in replicas]


async def test_a_page_that_hangs_its_engine_ends_in_an_error_and_others_go_on(deployed: Callable[..., Service]) -> None:
    """Every replica that takes the page hangs in it, is noticed, and is replaced by a working one."""
    engines = [{"name": "dummy", "replicas": 1, "page_s": 600, "max_batch": 1}, {"name": "tesseract", "replicas": 1}]
    service = deployed({"engines": engines, "limits": {"page_s": 1, "health_check_s": 0.3}})
    service.wait_until_engines_are_ready()
    (stuck,) = service.replicas("Recognizer-dummy")
    async with service.async_client() as client:
        hanging = asyncio.create_task(client.post("/ocr", **SENT))
        await asyncio.to_thread(stuck.wait)
        blank = png_of(np.full((60, 60, 3), 255, dtype=np.uint8))
        assert (await client.post("/ocr", files={"file": blank}, data={"engine": "tesseract"})).status_code == 200
        answer = await hanging
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "recognition_failed")


async def test_redeploying_with_a_changed_setting_under_load_costs_no_request(
    recognizing: Service, deploy_service: Callable[..., Service]
) -> None:
    async def redeploy() -> None:
        await asyncio.sleep(1)
        await asyncio.to_thread(deploy_service, text="after")

    answers = await load(recognizing, 4, redeploy)
    assert_none_failed(answers)
    texts = [answer.json()["text"] for answer in answers]
    assert texts[0] == "Привет" and texts[-1] == "after"
