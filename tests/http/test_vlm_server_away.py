"""The inference server that reads blocks is away, comes late and hangs; the service goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.support.local_service import LocalService
from tests.support.tiny_paddleocr_vl import TinyModels
from tests.support.vlm_server import VlmServer
from tests.support.vlm_service import good, read, read_many, served_by, server, server_of_module, server_state, wait_for

__all__ = ["server", "server_of_module"]


@pytest.fixture(scope="module")
def with_another_engine(
    deployed_for_module: Callable[..., LocalService], tiny_models: TinyModels, server_of_module: VlmServer
) -> LocalService:
    """A service with the stand-in as its server, which gives a page two seconds, and another engine beside."""
    dummy = {"name": "dummy", "replicas": 1, "text": "Рядом"}
    engines = [served_by(server_of_module, tiny_models), dummy]
    service = deployed_for_module({"engines": engines, "limits": {"page_s": 2}})
    service.wait_until_engines_are_ready()
    return service


def test_a_server_that_comes_late_is_used_when_it_is_there(
    with_another_engine: LocalService, server: VlmServer, russian_page: bytes
) -> None:
    service = with_another_engine
    assert server_state(service) == {"state": "away", "reason": "it cannot be connected to"}
    with service.client() as client:
        assert client.get("/health").json()["status"] == "degraded"
    started = time.monotonic()
    refused = read(service, russian_page)
    assert time.monotonic() - started < 2
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "vlm_server_away"
    assert int(refused.headers["Retry-After"]) > 0

    (recognizer,) = service.recognizers["paddleocr-vl"]
    recognizer.check_health()  # so Serve does not replace the replica
    server.start()
    wait_for(lambda: good(read(service, russian_page)), "pages are read")
    wait_for(lambda: server_state(service)["state"] == "available", "health tells")
    server.stop()
    wait_for(lambda: read(service, russian_page).status_code == 503, "pages are refused")
    server.start()
    wait_for(lambda: good(read(service, russian_page)), "pages are read again")
    recognizer.check_health()


async def test_a_server_that_hangs_costs_its_pages_and_nothing_else(
    with_another_engine: LocalService, server: VlmServer, russian_page: bytes
) -> None:
    server.start()
    service = with_another_engine
    wait_for(lambda: good(read(service, russian_page)), "pages are read")
    server.control(hang=True)
    work = asyncio.create_task(read_many(service, russian_page, 4))
    async with service.async_client() as client:
        beside = await client.post("/ocr", files={"file": russian_page}, data={"engine": "dummy"})
    assert beside.json()["text"] == "Рядом"
    answers = await work
    assert {answer.status_code for answer in answers} == {504}
    assert {answer.json()["error"]["code"] for answer in answers} == {"page_timeout"}
    server.control(hang=False)
    assert good(read(service, russian_page))

    server.pause()
    started = time.monotonic()
    (stopped,) = await read_many(service, russian_page, 1)
    assert stopped.status_code in (503, 504) and time.monotonic() - started < 6
    server.resume()
    wait_for(lambda: good(read(service, russian_page)), "pages are read again")
