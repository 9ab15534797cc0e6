"""Idempotency-Key on /ocr, and pages that are kept to be found again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.job_client import book, wait_for_end
from tests.support.service import KEY, Service

TEXT = "Привет, мир.\n" * 5000
"""Three times of it in JSON are more than is sent at once."""


@pytest.fixture(scope="module")
def slow(deployed_for_module: Callable[..., Service]) -> Service:
    """A page takes it a third of a second."""
    engine = {"name": "dummy", "replicas": 1, "page_s": 0.3, "max_batch": 1, "text": TEXT}
    service = deployed_for_module({"engines": [engine]})
    service.wait_until_engines_are_ready()
    return service


def ask(
    service: Service, key: str, pages: int = 1, *, who: str = KEY, accept: str = "*/*", **fields: str
) -> httpx.Response:
    headers = {"X-API-Key": who, "Idempotency-Key": key, "Accept": accept}
    return httpx.post(f"{service.url}/ocr", headers=headers, files={"file": book(pages)}, data=fields, timeout=60)


@pytest.mark.parametrize("output", ["json", "text", "pdf", "ndjson", "events"])
def test_a_request_that_is_sent_again_gets_the_first_answer(slow: Service, output: str) -> None:
    first = ask(slow, f"again-{output}", 2, output=output)
    assert first.status_code == 200 and "idempotent-replayed" not in first.headers
    again = ask(slow, f"again-{output}", 2, output=output)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.content == first.content and len(first.content) > 1000
    for name in ("content-type", "x-document-id", "x-document-status", "content-disposition"):
        assert again.headers.get(name) == first.headers.get(name), name
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


def test_another_request_with_the_same_key_is_refused(slow: Service) -> None:
    first = ask(slow, "счёт 7".encode().hex())
    for other in (
        ask(slow, "счёт 7".encode().hex(), 2),
        ask(slow, "счёт 7".encode().hex(), accept="text/plain"),
        ask(slow, "счёт 7".encode().hex(), dpi="100"),
        httpx.post(
            f"{slow.url}/jobs",
            headers={"X-API-Key": KEY, "Idempotency-Key": "счёт 7".encode().hex()},
            files={"file": book(1)},
        ),
    ):
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    elsewhere = ask(slow, "счёт 7".encode().hex(), who="second-key")
    assert elsewhere.status_code == 200
    assert elsewhere.headers["x-document-id"] != first.headers["x-document-id"]
    assert ask(slow, "x" * 256).status_code == 422


def test_one_that_is_still_running_is_409(slow: Service) -> None:
    with ThreadPoolExecutor() as clients:
        running = clients.submit(ask, slow, "running", 5)
        time.sleep(0.7)
        early = ask(slow, "running", 5)
        assert (early.status_code, early.json()["error"]["code"]) == (409, "request_running")
        assert int(early.headers["retry-after"]) > 0
        first = running.result()
    assert ask(slow, "running", 5).content == first.content


def test_of_two_at_once_one_is_read(slow: Service) -> None:
    with ThreadPoolExecutor() as clients:
        answers = list(clients.map(lambda _: ask(slow, "two", 2), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


def test_paddlexs_form_of_it_is_answered_once_too(slow: Service) -> None:
    headers = {"X-API-Key": KEY, "Idempotency-Key": "paddlex"}
    body = {"file": base64.b64encode(book(1)).decode(), "logId": "1"}
    with httpx.Client(base_url=slow.url, headers=headers, timeout=60) as client:
        first, again = client.post("/ocr", json=body), client.post("/ocr", json=body)
        assert first.status_code == 200 and first.json()["result"]["ocrResults"]
        assert again.content == first.content and again.headers["idempotent-replayed"] == "true"
        other = client.post("/ocr", json={**body, "logId": "2"})
    assert (other.status_code, other.json()["errorCode"], other.json()["logId"]) == (422, 422, "2")


def test_pages_are_found_again_where_that_is_wanted(deployed: Callable[..., Service], tmp_path: Path) -> None:
    engine = {"name": "dummy", "replicas": 1, "page_s": 0.3, "max_batch": 1, "text": "Привет"}
    service = deployed({"engines": [engine], "cache_days": 1})
    service.wait_until_engines_are_ready()

    def kept() -> int:
        return len(list((tmp_path / "output" / "cache").rglob("*.json")))

    with service.client() as client:
        first = client.post("/ocr", files={"file": book(5)}, data={"pages": "1-3"}).json()
        assert "cache" not in first["timings_ms"] and kept() == 3
        again = client.post("/ocr", files={"file": book(5)}, data={"pages": "2-3"}).json()
        assert "recognize" not in again["timings_ms"]
        assert again["pages"] == first["pages"][1:] and again["id"] != first["id"]
        lines = client.post("/ocr", files={"file": book(5)}, data={"output": "ndjson"}).text.splitlines()
        assert sorted(json.loads(line)["page"]["number"] for line in lines[1:-1]) == [1, 2, 3, 4, 5]
        assert {"cache", "recognize"} <= json.loads(lines[-1])["timings_ms"].keys() and kept() == 5
        other = httpx.post(
            f"{service.url}/ocr", headers={"X-API-Key": "second-key"}, files={"file": book(5)}, timeout=60
        )
        assert "cache" not in other.json()["timings_ms"] and kept() == 10
        job_id = client.post("/jobs", files={"file": book(5)}).json()["id"]
        assert wait_for_end(client, job_id)["progress"]["done"] == 5
        timings = client.get(f"/jobs/{job_id}/result").json()["timings_ms"]
        assert "cache" in timings and "recognize" not in timings
        assert client.delete(f"/jobs/{job_id}").status_code == 204
        assert kept() == 5, "what is deleted is not in the cache either; what is another one's stays"
