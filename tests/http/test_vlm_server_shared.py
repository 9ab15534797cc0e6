"""The inference server that two replicas share dies, comes back and fails; the service goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.support.local_service import LocalService
from tests.support.tiny_paddleocr_vl import TinyModels
from tests.support.vlm_server import VlmServer
from tests.support.vlm_service import (
    good,
    read,
    read_many,
    served_by,
    server,
    server_of_module,
    until_all_good,
    wait_for,
)

__all__ = ["server", "server_of_module"]

Deploy = Callable[..., LocalService]


@pytest.fixture(scope="module")
def with_fallback(deployed_for_module: Deploy, tiny_models: TinyModels, server_of_module: VlmServer) -> LocalService:
    """A service with two replicas that share the stand-in, and another engine for while it is away."""
    vlm = {"concurrency": 6}
    engine = served_by(server_of_module, tiny_models, vlm=vlm, replicas=2, fallback="dummy")
    service = deployed_for_module({"engines": [engine, {"name": "dummy", "replicas": 1, "text": "Запасной"}]})
    service.wait_until_engines_are_ready()
    return service


async def test_a_fallback_engine_stands_in_while_the_server_dies_and_comes_back(
    with_fallback: LocalService, server: VlmServer, russian_page: bytes
) -> None:
    server.start()
    server.control(token_ms=5)
    service = with_fallback
    await until_all_good(service, russian_page)

    work = asyncio.create_task(read_many(service, russian_page, 24))
    await asyncio.to_thread(wait_for, lambda: server.counters()["in_flight"] > 0, "blocks are in flight")
    server.stop()
    answers = [answer.json() for answer in await work if answer.status_code == 200]
    assert len(answers) == 24
    stood_in = [answer for answer in answers if answer["engine"]["name"] == "dummy"]
    assert stood_in and all(answer["degraded"] and answer["text"] == "Запасной" for answer in stood_in)
    assert {answer["pages"][0]["warnings"][0]["code"] for answer in stood_in} == {"fallback_engine"}

    server.start()
    wait_for(lambda: good(read(service, russian_page)), "the server is used again")


async def test_every_fifth_answer_is_an_error_and_no_page_is(
    with_fallback: LocalService, server: VlmServer, russian_page: bytes
) -> None:
    service = with_fallback
    server.start()
    await until_all_good(service, russian_page)
    server.control(fail_every=5)
    answers = await read_many(service, russian_page, 24)
    assert all(good(answer) for answer in answers), [answer.text[:200] for answer in answers if not good(answer)]
    counters = server.counters()
    assert counters["failed"] >= 20
    assert counters["most_in_flight"] <= 6  # both replicas together


async def test_the_page_of_a_client_who_left_is_given_up(
    with_fallback: LocalService, server: VlmServer, russian_page: bytes
) -> None:
    service = with_fallback
    server.start()
    await until_all_good(service, russian_page)
    server.control(hang=True)
    cancelled = server.counters()["cancelled"]
    with pytest.raises(httpx.ReadTimeout), service.client() as client:
        client.post("/ocr", files={"file": russian_page}, timeout=2)  # leaves long before its page's deadline
    wait_for(lambda: server.counters()["cancelled"] > cancelled, "the page is given up", 30)
