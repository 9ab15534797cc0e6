"""Documents of many pages where Serve's proxy and queues have a part in it; the others are in tests/http."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from tests.support.job_client import book
from tests.support.service import Service

DUMMY = {"engine": "dummy"}


def test_a_client_who_leaves_a_stream_ends_its_work(service: Service) -> None:
    with service.client() as client:
        streamed = {"Accept": "text/event-stream"}
        with client.stream("POST", "/ocr", files={"file": book(400)}, data=DUMMY, headers=streamed) as left:
            assert next(left.iter_lines()) == "event: start"
        started = time.monotonic()
        assert client.post("/ocr", files={"file": book(1)}, data=DUMMY).status_code == 200
        assert time.monotonic() - started < 3, "the 400 pages of a client who has left are not in the way"


async def test_an_image_is_not_kept_waiting_by_a_long_document(service: Service) -> None:
    async def image_s(client: httpx.AsyncClient) -> float:
        started = time.monotonic()
        assert (await client.post("/ocr", files={"file": book(1)}, data=DUMMY)).status_code == 200
        return time.monotonic() - started

    async with service.async_client() as client:
        alone = [await image_s(client) for _ in range(12)]
        document = asyncio.create_task(client.post("/ocr", files={"file": book(400)}, data=DUMMY, timeout=120))
        await asyncio.sleep(1)
        beside = [await image_s(client) for _ in range(20)]
        assert not document.done()
        document.cancel()
    p95_alone, p95_beside = (statistics.quantiles(times, n=20)[-1] for times in (alone, beside))
    assert p95_beside <= 3 * p95_alone, (alone, beside)
