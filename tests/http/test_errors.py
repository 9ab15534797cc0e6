"""Every error has the one shape, whoever makes it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app import errors
from serve_app.errors import ServiceError
from serve_app.metrics.catalogue import REQUESTS
from tests.support.metrics import grows
from tests.support.samples import SAMPLES
from tests.support.service import KEY, Service

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/ocr", {}, 405, "method_not_allowed"),
        ("DELETE", "/health", {}, 405, "method_not_allowed"),
        ("POST", "/ocr", {}, 400, "invalid_request"),
        ("POST", "/ocr", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request"),
        ("POST", "/ocr", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ("POST", "/ocr", {"json": {"image_base64": "!"}}, 400, "invalid_base64"),
        ("POST", "/ocr", {"json": {"image_base64": ""}}, 422, "empty_document"),
        ("POST", "/ocr", {"json": {"image_base64": "AAAA"}}, 415, "unsupported_media_type"),
        ("POST", "/ocr", {"json": {"image_url": "ftp://a/"}}, 400, "scheme_not_allowed"),
        ("POST", "/ocr", {"json": {"image_url": "http://10.0.0.1/"}}, 403, "url_forbidden"),
        ("POST", "/ocr", {"headers": {"Authorization": "Bearer wrong"}}, 401, "unauthorized"),
        ("GET", "/health", {"headers": {"X-Request-ID": "../x"}}, 400, "invalid_request_id"),
        ("POST", "/ocr", {"headers": {"Content-Type": "multipart/form-data"}, "content": b"x"}, 400, "invalid_request"),
    ],
)
def test_one_shape(service: Service, method: str, path: str, options: dict[str, Any], status: int, code: str) -> None:
    request = {**options, "headers": {**AUTHORIZED, **options.get("headers", {})}}
    key = "" if code in ("unauthorized", "invalid_request_id") else "alice"
    with grows(REQUESTS, key=key, status=str(status), reason=code):
        answer = httpx.request(method, service.url + path, **request)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert {"code", "message", "request_id"} <= error.keys() <= {"code", "message", "request_id", "fields"}
    assert error["code"] == code
    for detail in (str(SAMPLES.parent), "/tmp", "/home", "Traceback", "127.0.0.1", "Errno", "pydantic"):
        assert detail not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/jobs?priority=bulk", "priority: is not a known query parameter; send options as fields of the body"),
        ("GET", "/jobs?limits=5", "limits: is not a known query parameter; did you mean 'limit'?"),
        ("GET", "/jobs?page=5", "page: is not a known query parameter"),
    ],
)
def test_a_query_parameter_that_would_have_no_effect_is_refused(
    service: Service, russian_page: bytes, method: str, path: str, message: str
) -> None:
    files = {"file": russian_page} if method == "POST" else None
    answer = httpx.request(method, service.url + path, headers=AUTHORIZED, files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")
    assert answer.json()["error"]["message"] == message
    assert [problem["field"] for problem in answer.json()["error"]["fields"]] == [message.partition(":")[0]]


def test_query_parameters_of_ocr_are_ignored_as_in_1_0_9(service: Service, russian_page: bytes) -> None:
    fields = {"engine": "dummy"}
    answer = httpx.post(f"{service.url}/ocr?dpi=x&_=1", headers=AUTHORIZED, files={"file": russian_page}, data=fields)
    assert answer.status_code == 200


def test_every_error_class_has_a_code_of_its_own_and_a_message_for_people() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes) > 20
    for kind in kinds:
        assert 400 <= kind.status < 600
        assert kind.default_message.endswith(".")
