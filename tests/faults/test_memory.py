"""A replica that has grown too large finishes its work and is replaced; no request fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from serve_app.recognition.memory_limit import private_memory_mb
from tests.support.pictures import noise_page
from tests.support.service import Service

CLIENTS = 12
RECOGNIZER = "Recognizer-dummy"
GROWTH_MB = 150
# A page takes 80 ms and leaks this much: 100 MB a second, so the limit is passed every other second.
LEAK_MB = 8
# Three health checks in a row must fail, and what the replica has taken on by then is finished: 1 s and 18 pages.
SLACK_MB = 300
DEADLINE_S = 60.0
SEEN = 3  # so many different replicas there must have been by the end


class Watch:
    """The replicas of the recognizer over time: the largest memory of each, by its process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.peaks_mb: dict[int, float] = {}

    async def until_seen(self, replicas: int) -> None:
        """Look until so many different replicas have been there."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.peaks_mb) < replicas:
            assert time.monotonic() < deadline, f"{len(self.peaks_mb)} replicas in {DEADLINE_S:g} s"
            for process in self._service.replicas(RECOGNIZER):
                try:
                    used_mb = private_memory_mb(process)
                except psutil.NoSuchProcess:
                    continue
                self.peaks_mb[process.pid] = max(used_mb, self.peaks_mb.get(process.pid, 0))
            await asyncio.sleep(0.1)


def settings(**more: Any) -> dict[str, Any]:
    engine = {"name": "dummy", "page_s": 0.08, "max_batch": 1, "leak_mb": LEAK_MB, "replicas": 1, **more}
    return {"engines": [engine], "limits": {"health_check_s": 0.3}}


@pytest.fixture
def limit_mb(service: Service) -> float:
    """What a replica may use: what one uses that does not leak, and some more."""
    replica, _ = service.replicas(RECOGNIZER)
    return private_memory_mb(replica) + GROWTH_MB


async def test_a_replica_over_its_limit_is_replaced_and_no_request_fails(
    deployed: Callable[..., Service], limit_mb: float
) -> None:
    """There is one, so that no other can take its pages meanwhile."""
    service = deployed(settings(memory_mb=limit_mb))
    service.wait_until_engines_are_ready()

    watch = Watch(service)
    done = asyncio.Event()

    async def client() -> list[httpx.Response]:
        answers = []
        async with service.async_client() as http:
            while not done.is_set():
                answers.append(await http.post("/ocr", files={"file": noise_page()}))
        return answers

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await watch.until_seen(SEEN)
    done.set()
    answers = [answer for of_client in await asyncio.gather(*clients) for answer in of_client]

    failed = [(answer.status_code, answer.text) for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)} failed: {failed[:3]}"
    assert max(watch.peaks_mb.values()) < limit_mb + SLACK_MB
    replaced = [log for log in service.logs(RECOGNIZER) if "this replica finishes its work and is replaced" in log]
    assert len(replaced) >= SEEN - 1
    lost = [log for log in service.logs("Ingress") if "its recognizer died" in log]
    assert not lost, "pages are finished where they are, not sent again"
