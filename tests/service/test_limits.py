"""Limits that Serve's proxy and processes have a part in; the others are in tests/http."""

from __future__ import annotations

import asyncio
import io
import socket
import statistics
import time
from typing import Any

import pytest
from PIL import Image

from tests.support.service import KEY, Service


@pytest.fixture(scope="module")
def small_page() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (60, 60), "white").save(stream, "PNG")
    return stream.getvalue()


async def test_row_46_work_of_a_client_that_left_is_dropped(service: Service, small_page: bytes) -> None:
    """160 clients queue pages of 0.15 s for two replicas and leave; a page that comes later does not wait for theirs."""
    page: dict[str, Any] = {"files": {"file": small_page}, "data": {"engine": "dummy"}}
    async with service.async_client() as client:
        leaving = [asyncio.create_task(client.post("/ocr", **page)) for _ in range(160)]
        await asyncio.sleep(1)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.sleep(0.3)
        started = time.monotonic()
        assert (await client.post("/ocr", **page)).status_code == 200
    assert time.monotonic() - started < 9, "what is left of their twelve seconds of work is not done for nobody"


def test_row_9_an_upload_that_stalls_is_408_and_the_connection_is_closed(service: Service) -> None:
    host, _, path = service.url.removeprefix("http://").partition("/")
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST /{path}/ocr HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        received = b""
        while chunk := connection.recv(4096):  # ends because the service closes the connection
            received += chunk
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"upload_stalled"' in received


async def test_health_answers_while_every_engine_process_is_busy(service: Service, russian_page: bytes) -> None:
    """Median of 50 ms with all of Tesseract's processes at work on every core."""
    async with service.async_client() as client:
        stop = asyncio.Event()

        async def busy() -> None:
            while not stop.is_set():
                answer = await client.post("/ocr", files={"file": russian_page})
                assert answer.status_code == 200

        clients = [asyncio.create_task(busy()) for _ in range(6)]
        await asyncio.sleep(1)
        times = []
        for _ in range(40):
            started = time.perf_counter()
            health = await client.get("/health")
            times.append((time.perf_counter() - started) * 1000)
            assert health.json()["paddleocr"] == "initialized"
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*clients)
    assert statistics.median(times) < 50, sorted(times)
