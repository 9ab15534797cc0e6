"""An engine whose replica the cluster has no room for: here, a GPU where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.service import Service

ENGINE_WAIT_S = 1


def deploy_without_room(deployed: Callable[..., Service], **engine: Any) -> Service:
    without_room = {"name": "paddleocr-vl", "device": "gpu", "replicas": 1, **engine}
    dummy = {"name": "dummy", "replicas": 1, "text": "Запасной"}
    service = deployed({"engines": [without_room, dummy], "limits": {"engine_wait_s": ENGINE_WAIT_S}}, wait=False)
    deadline = time.monotonic() + 60
    with service.client() as client:
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline, "the ingress does not wait for its engines"
            time.sleep(0.2)
    return service


def post(service: Service, page: bytes) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    with service.client() as client:
        answer = client.post("/ocr", files={"file": page})
    return answer, time.monotonic() - started


@pytest.mark.parametrize("fallback", ["dummy", None])
def test_a_page_for_an_engine_without_a_replica_is_answered_in_time(
    deployed: Callable[..., Service], russian_page: bytes, fallback: str | None
) -> None:
    service = deploy_without_room(deployed, fallback=fallback)
    answer, seconds = post(service, russian_page)
    assert seconds < 20, "the page waited for a replica that cannot come"
    if fallback is None:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_loading"
        assert answer.headers["Retry-After"]
    else:
        document = answer.json()
        assert (document["engine"]["name"], document["degraded"], document["text"]) == ("dummy", True, "Запасной")
    again, seconds = post(service, russian_page)
    assert again.status_code == answer.status_code and seconds < 6
