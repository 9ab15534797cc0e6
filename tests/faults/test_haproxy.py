"""HAProxy in front of the service, as in production: a redeploy, and the death of each process that holds a request."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.job_client import book, submit, wait_for_end
from tests.support.nodes import Nodes, until
from tests.support.pictures import noise_page

CLIENTS = 16
PAGES = 60  # of the job
DEADLINE_S = 60.0
PLAIN_500 = "500 text/plain: Internal Server Error"
"""How HAProxy answers for a replica that it lost, instead of 502."""
NO_ROUTE = "404 text/plain: Path '/nodes/ocr' not found"
"""How Serve answers, for a moment, when HAProxy has started anew and does not know the application yet."""
CUT = {error.__name__ for error in (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)}
EPHEMERAL = 30_000  # HAProxy's and the system's own ranges of ports begin here


def free_port() -> int:
    """A port that no outgoing connection takes meanwhile: the system chooses theirs from a higher range."""
    while True:
        port = random.randint(20_000, EPHEMERAL - 1)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def folder(short_tmp_path_factory: Callable[[], Path]) -> Path:
    return short_tmp_path_factory()


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def haproxy(folder: Path, metrics_port: int) -> Iterator[Nodes]:
    """A Ray with HAProxy on ports and in a folder of its own; its defaults are the same for all of a machine."""
    variables = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy" / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "haproxy" / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy" / "server-state"),
    }
    nodes = Nodes(folder, **variables)
    try:
        nodes.run(settings(folder, "before"))
        yield nodes
    finally:
        nodes.stop()
        for process in proxies(folder):
            process.kill()


def settings(folder: Path, text: str) -> dict[str, Any]:
    return {
        "engines": [{"name": "dummy", "replicas": 2, "page_s": 0.05, "max_batch": 4, "text": text}],
        "ingress_replicas": 2,
        "store": {"kind": "folder", "path": str(folder / "output")},
        "temp_dir": str(folder / "temp"),
    }


def proxies(folder: Path) -> list[psutil.Process]:
    """The processes of HAProxy: after a change of replicas also those that finish their last requests."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(
            word.startswith(f"{folder}/haproxy/") and word.endswith(".cfg") for word in process.info["cmdline"] or []
        )
    ]


def described(response: httpx.Response) -> str:
    """An error of the service by its code, one of HAProxy by all that a client sees of it."""
    if response.headers["content-type"] == "application/json":
        return str(response.json()["error"]["code"])
    return f"{response.status_code} {response.headers['content-type']}: {response.text}"


async def load(haproxy: Nodes, meanwhile: Callable[[], Awaitable[None]]) -> tuple[list[str], list[str]]:
    """Sixteen clients send pages while something happens; the texts in the answers, and what went wrong on the way.

    They do as docs/operate.md asks of clients: they send a request that failed again, with the same Idempotency-Key.
    """
    image = noise_page()
    texts: list[str] = []
    failures: list[str] = []
    over = asyncio.Event()

    async def one_client(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            texts.append(await answer(f"{number}-{count}-{random.random()}"))

    async def answer(key: str) -> str:
        deadline = time.monotonic() + DEADLINE_S
        async with haproxy.service.async_client() as http:
            while time.monotonic() < deadline:
                try:
                    response = await http.post("/ocr", files={"file": image}, headers={"Idempotency-Key": key})
                except httpx.TransportError as error:
                    failures.append(type(error).__name__)
                else:
                    if response.status_code == 200:
                        return str(response.json()["text"])
                    failures.append(described(response))
                await asyncio.sleep(0.2)
        raise AssertionError(f"no answer in {DEADLINE_S:g} s: {failures[-3:]}")

    clients = [asyncio.create_task(one_client(number)) for number in range(CLIENTS)]

    async def until_answered(more: int) -> None:
        enough = len(texts) + more
        await until(lambda: len(texts) >= enough or any(client.done() for client in clients), f"{more} more answers")

    await until_answered(CLIENTS)
    await meanwhile()
    await until_answered(2 * CLIENTS)
    over.set()
    await asyncio.gather(*clients)
    return texts, failures


async def test_a_redeploy_under_load_fails_no_request(haproxy: Nodes, folder: Path) -> None:
    async def redeploy() -> None:
        await asyncio.to_thread(haproxy.run, settings(folder, "after"))

    texts, failures = await load(haproxy, redeploy)
    assert not failures, f"{len(failures)} beside {len(texts)}: {failures[:3]}"
    assert (texts[0], texts[-1]) == ("before", "after")


async def test_a_killed_proxy_cuts_requests_that_clients_can_repeat_and_no_job(haproxy: Nodes, folder: Path) -> None:
    with haproxy.service.client() as http:
        job_id = submit(http, book(PAGES), engine="dummy")

        async def kill() -> None:
            for process in proxies(folder):
                process.kill()

        _, failures = await load(haproxy, kill)
        seen = {NO_ROUTE if failure.startswith(NO_ROUTE) else failure for failure in failures}
        assert failures and seen <= {*CUT, "request_running", NO_ROUTE}, seen
        job = await asyncio.to_thread(wait_for_end, http, job_id)
        assert (job["state"], job["progress"]["done"]) == ("done", PAGES)


async def test_a_killed_ingress_costs_only_the_requests_that_it_held(haproxy: Nodes) -> None:
    async def kill() -> None:
        haproxy.service.replicas("Ingress")[0].kill()

    _, failures = await load(haproxy, kill)
    assert failures and set(failures) <= {PLAIN_500, *CUT, "request_running"}, set(failures)
    lost = [failure for failure in failures if failure != "request_running"]
    assert len(lost) <= CLIENTS, "the other one goes on"


def test_metrics_are_open_and_long_headers_are_refused(haproxy: Nodes, metrics_port: int) -> None:
    assert "haproxy_backend_http_responses_total" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    with haproxy.service.client() as http:
        assert http.get("/health", headers={"X-Long": "a" * 12_000}).status_code == 200
        assert http.get("/health", headers={"X-Long": "a" * 17_000}).status_code == 400
