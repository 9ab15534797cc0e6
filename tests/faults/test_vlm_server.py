"""The inference server that reads blocks is away, comes, dies, fails and hangs; the service goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.service import Service
from tests.support.tiny_paddleocr_vl import OCR_TEXT, TinyModels
from tests.support.vlm_server import VlmServer

Deploy = Callable[..., Service]
BACK_S = 10  # a server that is there again is noticed within a second or so; machines are slow at times
STAND_IN = Path(__file__).parents[1] / "support" / "vlm_server.py"


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


@pytest.fixture(scope="module")
def with_another_engine(deployed_for_module: Deploy, tiny_models: TinyModels, server_of_module: VlmServer) -> Service:
    """A service with the stand-in as its server, which gives a page two seconds, and another engine beside."""
    dummy = {"name": "dummy", "replicas": 1, "text": "Рядом"}
    engines = [served_by(server_of_module, tiny_models), dummy]
    service = deployed_for_module({"engines": engines, "limits": {"page_s": 2}})
    service.wait_until_engines_are_ready()
    return service


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


@pytest.fixture(scope="module")
def with_fallback(deployed_for_module: Deploy, tiny_models: TinyModels, server_of_module: VlmServer) -> Service:
    """A service with two replicas that share the stand-in, and another engine for while it is away."""
    vlm = {"concurrency": 6}
    engine = served_by(server_of_module, tiny_models, vlm=vlm, replicas=2, fallback="dummy")
    service = deployed_for_module({"engines": [engine, {"name": "dummy", "replicas": 1, "text": "Запасной"}]})
    service.wait_until_engines_are_ready()
    return service


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


def test_a_server_that_comes_late_is_used_when_it_is_there(
    with_another_engine: Service, server: VlmServer, russian_page: bytes
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

    replica = service.replicas("Recognizer-paddleocr-vl")[0].pid
    server.start()
    wait_for(lambda: good(read(service, russian_page)), "pages are read")
    wait_for(lambda: server_state(service)["state"] == "available", "health tells")
    server.stop()
    wait_for(lambda: read(service, russian_page).status_code == 503, "pages are refused")
    server.start()
    wait_for(lambda: good(read(service, russian_page)), "pages are read again")
    assert [process.pid for process in service.replicas("Recognizer-paddleocr-vl")] == [replica]


async def test_a_server_that_hangs_costs_its_pages_and_nothing_else(
    with_another_engine: Service, server: VlmServer, russian_page: bytes
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
    cancelled = server.counters()["cancelled"]
    with pytest.raises(httpx.ReadTimeout), service.client() as client:
        client.post("/ocr", files={"file": russian_page}, timeout=0.5)  # leaves long before its page's deadline
    wait_for(lambda: server.counters()["cancelled"] > cancelled, "the page of a client who left is given up", 1.4)
    server.control(hang=False)
    assert good(read(service, russian_page))

    server.pause()
    started = time.monotonic()
    (stopped,) = await read_many(service, russian_page, 1)
    assert stopped.status_code in (503, 504) and time.monotonic() - started < 6
    server.resume()
    wait_for(lambda: good(read(service, russian_page)), "pages are read again")


async def test_a_fallback_engine_stands_in_while_the_server_dies_and_comes_back(
    with_fallback: Service, server: VlmServer, russian_page: bytes
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
    with_fallback: Service, server: VlmServer, russian_page: bytes
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


def test_a_replica_starts_its_own_server_and_takes_it_along(
    deployed: Deploy, tiny_models: TinyModels, server_of_module: VlmServer, tmp_path: Path, russian_page: bytes
) -> None:
    log = tmp_path / "server.log"
    launch = {"command": [sys.executable, str(STAND_IN), "--port", "{port}", "--token-ms", "0"], "log_file": str(log)}
    engine = served_by(server_of_module, tiny_models, vlm={"url": None, "launch": launch})
    service = deployed({"engines": [engine]})
    service.wait_until_engines_are_ready()
    wait_for(lambda: good(read(service, russian_page)), "pages are read")
    assert "READY" in log.read_text()

    def servers() -> list[psutil.Process]:
        """Those of this service: another test may run its own."""
        replicas = service.replicas("Recognizer-paddleocr-vl")
        below = [process for replica in replicas for process in replica.children(recursive=True)]
        return [process for process in below if _is_server(process)]

    (first,) = servers()
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: good(read(service, russian_page)), "the server is started again", 20)

    replica = service.replicas("Recognizer-paddleocr-vl")[0]
    child = servers()[0]
    os.kill(replica.pid, signal.SIGKILL)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the server ends with it")
    wait_for(lambda: good(read(service, russian_page)), "a new replica has its own", 40)


def _is_server(process: psutil.Process) -> bool:
    """Whether this is the server itself, not one that guards it."""
    try:
        return process.cmdline()[1:2] == [str(STAND_IN)]
    except psutil.NoSuchProcess:
        return False
