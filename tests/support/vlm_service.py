"""A service whose engine paddleocr-vl has the stand-in as its inference server: what its tests share."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.service import Service
from tests.support.tiny_paddleocr_vl import OCR_TEXT, TinyModels
from tests.support.vlm_server import VlmServer

BACK_S = 10
"""A server that is there again is noticed within a second or so; machines are slow at times."""


@pytest.fixture(scope="module")
def server_of_module() -> Iterator[VlmServer]:
    """A stand-in that is not started, on a port that is known."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stand_in = VlmServer(tokens=200, token_ms=0.5)
    stand_in.start(port)
    stand_in.stop()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def server(server_of_module: VlmServer) -> Iterator[VlmServer]:
    """It is not started at the test's begin, and forgets at its end what it was told to do."""
    yield server_of_module
    server_of_module.stop()


def served_by(
    server: VlmServer, models: TinyModels, vlm: dict[str, Any] | None = None, **engine: Any
) -> dict[str, Any]:
    """The settings of paddleocr-vl with the stand-in as its server."""
    vlm = {"backend": "vllm-server", "url": server.url, "connect_s": 1, **(vlm or {})}
    return {
        "name": "paddleocr-vl",
        "device": "cpu",
        "replicas": 1,
        "layout_model_dir": str(models.layout),
        "vlm": {name: value for name, value in vlm.items() if value is not None},
        **engine,
    }


def read(service: Service, page: bytes) -> httpx.Response:
    with service.client() as client:
        return client.post("/ocr", files={"file": page})


async def read_many(service: Service, page: bytes, count: int, clients: int = 8) -> list[httpx.Response]:
    places = asyncio.Semaphore(clients)

    async with service.async_client() as client:

        async def one() -> httpx.Response:
            async with places:
                return await client.post("/ocr", files={"file": page})

        return await asyncio.gather(*(one() for _ in range(count)))


def server_state(service: Service) -> dict[str, Any]:
    with service.client() as client:
        state: dict[str, Any] = client.get("/health").json()["engines"]["paddleocr-vl"]["server"]
    return state


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = BACK_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.1)


def good(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and OCR_TEXT in answer.json()["text"] and not answer.json()["degraded"]


async def until_all_good(service: Service, page: bytes) -> None:
    """Until every replica uses the server: each probes it in its own time."""
    deadline = time.monotonic() + BACK_S
    while not all(good(answer) for answer in await read_many(service, page, 8)):
        assert time.monotonic() < deadline, f"the server is not used within {BACK_S} s"
