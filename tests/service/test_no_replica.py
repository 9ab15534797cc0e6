"""An engine whose replica the cluster has no room for: here, a GPU where there is none, and more CPUs than there are."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from tests.support.service import Service

ENGINE_WAIT_S = 1


@pytest.fixture(scope="module")
def without_room(deployed_for_module: Callable[..., Service]) -> Service:
    """Two engines that the cluster has no room for, of which one has a fallback."""
    engines = [
        {"name": "paddleocr-vl", "device": "gpu", "replicas": 1, "fallback": "dummy"},
        {"name": "tesseract", "replicas": 1, "num_cpus": 1000},
        {"name": "dummy", "replicas": 1, "text": "Запасной"},
    ]
    service = deployed_for_module({"engines": engines, "limits": {"engine_wait_s": ENGINE_WAIT_S}}, wait=False)
    deadline = time.monotonic() + 60
    with service.client() as client:
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline, "the ingress does not wait for its engines"
            time.sleep(0.2)
    return service


def post(service: Service, page: bytes, engine: str) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    with service.client() as client:
        answer = client.post("/ocr", files={"file": page}, data={"engine": engine})
    return answer, time.monotonic() - started


@pytest.mark.parametrize(("engine", "has_fallback"), [("paddleocr-vl", True), ("tesseract", False)])
def test_a_page_for_an_engine_without_a_replica_is_answered_in_time(
    without_room: Service, russian_page: bytes, engine: str, has_fallback: bool
) -> None:
    answer, seconds = post(without_room, russian_page, engine)
    assert seconds < 20, "the page waited for a replica that cannot come"
    if has_fallback:
        document = answer.json()
        assert (document["engine"]["name"], document["degraded"], document["text"]) == ("dummy", True, "Запасной")
    else:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_loading"
        assert answer.headers["Retry-After"]
    again, seconds = post(without_room, russian_page, engine)
    assert again.status_code == answer.status_code and seconds < 6
