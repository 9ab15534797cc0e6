from __future__ import annotations

import multiprocessing
import pickle
import re
import stat
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serve_app.errors import Unauthorized
from serve_app.ingress.keys import KeyRing, local_key, parse_keys
from serve_app.ingress.middleware.auth import Authentication
from serve_app.ingress.middleware.error_responses import ErrorResponses
from serve_app.ingress.middleware.request_id import RequestId


def test_keys_may_have_names_or_none() -> None:
    assert parse_keys("alice=s3cret, other ,bob=a=b") == {"alice": "s3cret", "key-d9298a10": "other", "bob": "a=b"}
    assert parse_keys("other,alice=s3cret").keys() == {"key-d9298a10", "alice"}, "jobs belong to names"


def test_a_key_that_ends_in_base64_padding_is_not_taken_for_a_name() -> None:
    assert parse_keys("YWJjZA==") == {"key-db3eaf9a": "YWJjZA=="}
    assert parse_keys("ci=YWJjZA==") == {"ci": "YWJjZA=="}


@pytest.mark.parametrize("text", ["", " , ,", "a=one,a=two"])
def test_unusable_key_lists_are_refused_without_showing_a_key(text: str) -> None:
    with pytest.raises(ValueError, match="OCR_API_KEYS") as error:
        parse_keys(text)
    assert "one" not in str(error.value)


def test_the_key_ring_knows_its_keys_and_holds_none_of_them() -> None:
    ring = KeyRing({"alice": "s3cret", "боб": "ключ"})
    assert ring.name_of(b"s3cret") == "alice"
    assert ring.name_of("ключ".encode()) == "боб"
    assert ring.name_of(b"s3cre") is None
    assert ring.name_of(b"") is None
    assert b"s3cret" not in pickle.dumps(ring)


def test_a_local_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "config" / "api-key"
    key = local_key(file)
    assert re.fullmatch("[0-9a-f]{64}", key), "no hyphen, which would begin an option on a command line"
    assert local_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["api-key"], "nothing is left beside it"


def test_several_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(local_key, [tmp_path / "api-key"] * 8)
    assert len(set(keys)) == 1


def test_a_key_file_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file where a folder is needed")
    with pytest.raises(ValueError, match="Set OCR_API_KEYS"):
        local_key(tmp_path / "plain" / "api-key")


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"key": scope.get("state", {}).get("key_name")})(scope, receive, send)


def _client() -> httpx.AsyncClient:
    ring = KeyRing({"alice": "s3cret", "боб": "ключ"})
    app = RequestId(ErrorResponses(Authentication(_answer, keys=ring, is_open=lambda scope: scope["path"] == "/docs")))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"Authorization": "bearer s3cret"},
        {"Authorization": "token s3cret"},
        {"X-API-Key": "s3cret"},
    ],
)
async def test_each_form_in_which_clients_send_a_key_is_taken(headers: dict[str, str]) -> None:
    async with _client() as client:
        response = await client.get("/", headers=headers)
    assert (response.status_code, response.json()) == (200, {"key": "alice"})


async def test_a_key_of_non_ascii_letters_works() -> None:
    async with _client() as client:
        response = await client.get("/", headers={b"X-API-Key": "ключ".encode()})
    assert response.json() == {"key": "боб"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic s3cret"},
        {"X-API-Key": ""},
    ],
)
async def test_row_41_a_missing_or_wrong_key_is_401_before_the_body_is_read(headers: dict[str, str]) -> None:
    async def untouchable() -> bytes:
        raise AssertionError("the body was read")

    async def receive() -> dict[str, object]:
        await untouchable()
        return {}

    ring = KeyRing({"alice": "s3cret"})
    scope: Scope = {
        "type": "http",
        "path": "/ocr",
        "method": "POST",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    with pytest.raises(Unauthorized):
        await Authentication(_answer, keys=ring, is_open=lambda path: False)(scope, receive, _send_nothing)
    async with _client() as client:
        response = await client.post("/ocr", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthorized"
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


async def _send_nothing(message: object) -> None:
    raise AssertionError("nothing may be sent")


async def test_open_paths_need_no_key() -> None:
    async with _client() as client:
        assert (await client.get("/docs")).status_code == 200


async def test_a_clients_request_id_comes_back() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(Request(scope).state.request_id)(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(RequestId(echo)), base_url="http://service") as client:
        assert (await client.get("/", headers={"X-Request-ID": "job-7.page_1"})).json() == "job-7.page_1"


@pytest.mark.parametrize("value", ["a/b", "..\\x", "a b", "x" * 129, "ü", ""])
async def test_row_13_a_request_id_that_could_be_a_path_is_400(value: str) -> None:
    async with _client() as client:
        response = await client.get("/docs", headers={b"X-Request-ID": value.encode()})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request_id"
    assert response.json()["error"]["request_id"] != value
