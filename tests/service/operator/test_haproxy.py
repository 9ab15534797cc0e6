"""HAProxy in front of the service, as in production: the death of each process that holds a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import httpx

from tests.support.cluster import Cluster
from tests.support.job_client import book, submit, wait_for_end
from tests.support.nodes import until
from tests.support.pictures import noise_page

CLIENTS = 16
PAGES = 60  # of the job
DEADLINE_S = 60.0
PLAIN_500 = "500 text/plain: Internal Server Error"
"""How HAProxy answers for a replica that it lost, instead of 502."""
NO_ROUTE = "404 text/plain: Path '/ocr' not found"
"""How Serve answers, for a moment, when HAProxy has started anew and does not know the application yet."""
CUT = {error.__name__ for error in (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)}


def described(response: httpx.Response) -> str:
    """An error of the service by its code, one of HAProxy by all that a client sees of it."""
    if response.headers["content-type"] == "application/json":
        return str(response.json()["error"]["code"])
    return f"{response.status_code} {response.headers['content-type']}: {response.text}"


async def load(cluster: Cluster, meanwhile: Callable[[], Awaitable[None]]) -> list[str]:
    """Sixteen clients send pages while something happens; returns what went wrong before each got its answer.

    They do as docs/operate.md asks of clients: they send a request that failed again, with the same Idempotency-Key.
    """
    image, dummy = noise_page(), {"engine": "dummy"}
    answered = 0
    failures: list[str] = []
    over = asyncio.Event()

    async def one_client(number: int) -> None:
        nonlocal answered
        count = 0
        while not over.is_set():
            count += 1
            await answer(f"{number}-{count}-{random.random()}")
            answered += 1

    async def answer(key: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        async with cluster.service.async_client() as http:
            while time.monotonic() < deadline:
                try:
                    response = await http.post(
                        "/ocr", files={"file": image}, data=dummy, headers={"Idempotency-Key": key}
                    )
                except httpx.TransportError as error:
                    failures.append(type(error).__name__)
                else:
                    if response.status_code == 200:
                        return
                    failures.append(described(response))
                await asyncio.sleep(0.2)
        raise AssertionError(f"no answer in {DEADLINE_S:g} s: {failures[-3:]}")

    clients = [asyncio.create_task(one_client(number)) for number in range(CLIENTS)]

    async def until_answered(more: int) -> None:
        enough = answered + more
        await until(lambda: answered >= enough or any(client.done() for client in clients), f"{more} more answers")

    await until_answered(CLIENTS)
    await meanwhile()
    await until_answered(2 * CLIENTS)
    over.set()
    await asyncio.gather(*clients)
    return failures


async def test_a_killed_proxy_cuts_requests_that_clients_can_repeat_and_no_job(cluster: Cluster) -> None:
    with cluster.service.client() as http:
        job_id = submit(http, book(PAGES), engine="dummy")

        async def kill() -> None:
            for process in cluster.proxies():
                process.kill()

        failures = await load(cluster, kill)
        seen = {NO_ROUTE if failure.startswith(NO_ROUTE) else failure for failure in failures}
        assert failures and seen <= {*CUT, "request_running", NO_ROUTE}, seen
        job = await asyncio.to_thread(wait_for_end, http, job_id)
        assert (job["state"], job["progress"]["done"]) == ("done", PAGES)


async def test_a_killed_ingress_costs_only_the_requests_that_it_held(cluster: Cluster) -> None:
    async def kill() -> None:
        cluster.service.replicas("Ingress")[0].kill()

    failures = await load(cluster, kill)
    assert failures and set(failures) <= {PLAIN_500, *CUT, "request_running"}, set(failures)
    lost = [failure for failure in failures if failure != "request_running"]
    assert len(lost) <= CLIENTS, "the other one goes on"


def test_metrics_are_open_and_long_headers_are_refused(cluster: Cluster) -> None:
    exported = httpx.get(f"http://127.0.0.1:{cluster.haproxy_metrics_port}/metrics").text
    assert "haproxy_backend_http_responses_total" in exported
    with cluster.service.client() as http:
        assert http.get("/health", headers={"X-Long": "a" * 12_000}).status_code == 200
        assert http.get("/health", headers={"X-Long": "a" * 17_000}).status_code == 400
