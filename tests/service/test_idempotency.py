"""Idempotency-Key on /ocr where a client leaves or a process dies; what needs neither is in tests/http."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serve_app.jobs.idempotency_store import LEASE_S
from tests.support.job_client import book
from tests.support.service import KEY, Service

DUMMY = {"engine": "dummy"}


def ask(
    service: Service, key: str, pages: int = 1, *, who: str = KEY, accept: str = "*/*", **fields: str
) -> httpx.Response:
    headers = {"X-API-Key": who, "Idempotency-Key": key, "Accept": accept}
    data = {**DUMMY, **fields}
    return httpx.post(f"{service.url}/ocr", headers=headers, files={"file": book(pages)}, data=data, timeout=60)


def test_a_request_that_failed_or_was_left_does_not_hold_its_key(service: Service) -> None:
    headers = {"X-API-Key": KEY, "Idempotency-Key": "failed"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        assert (
            client.post("/ocr", files={"file": b"%PDF-1.7 nothing"}, data=DUMMY).json()["error"]["code"]
            == "corrupt_document"
        )
        assert client.post("/ocr", files={"file": book(1)}, data=DUMMY).status_code == 200
        headers["Idempotency-Key"] = "left"
        with client.stream(
            "POST", "/ocr", headers=headers, files={"file": book(30)}, data={**DUMMY, "output": "ndjson"}
        ) as stream:
            assert next(stream.iter_lines()).startswith('{"event": "start"')
        wait_until_free(client, headers)
        headers["Idempotency-Key"] = "left, too"
        with pytest.raises(httpx.ReadTimeout):
            client.post("/ocr", headers=headers, files={"file": book(30)}, data=DUMMY, timeout=1)
        wait_until_free(client, headers)
        for early_s in (0.02, 0.05, 0.1):
            headers["Idempotency-Key"] = f"left after {early_s} s"
            with pytest.raises(httpx.TimeoutException):
                client.post("/ocr", headers=headers, files={"file": book(30)}, data=DUMMY, timeout=early_s)
            wait_until_free(client, headers)


def wait_until_free(client: httpx.Client, headers: dict[str, str]) -> None:
    """Until another request may have the key."""
    deadline = time.monotonic() + 10
    while (answer := client.post("/ocr", headers=headers, files={"file": book(1)}, data=DUMMY)).status_code != 200:
        assert answer.json()["error"]["code"] == "idempotency_mismatch"
        assert time.monotonic() < deadline, "it is given back at once"
        time.sleep(0.2)


def test_an_ingress_that_is_killed_does_not_hold_keys_for_long(service: Service) -> None:
    with ThreadPoolExecutor() as clients:
        running = clients.submit(ask, service, "killed", 20)
        time.sleep(0.7)
        for ingress in service.replicas("Ingress"):
            ingress.send_signal(signal.SIGKILL)
        assert running.result().status_code >= 500
    killed = time.monotonic()
    codes = []
    while (answer := ask(service, "killed", 20)).status_code != 200:
        codes.append(answer.json()["error"]["code"])
        assert time.monotonic() - killed < LEASE_S + 20, codes
        time.sleep(0.5)
    assert set(codes) <= {"request_running", "service_unavailable"}
