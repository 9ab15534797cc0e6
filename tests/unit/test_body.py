"""Reading bodies: the rows of hostile input that end before any page is made."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serve_app.errors import InvalidBase64, UploadStalled
from serve_app.ingress.middleware.error_responses import ErrorResponses
from serve_app.ingress.middleware.request_id import RequestId
from serve_app.ingress.requests import body as body_module
from serve_app.ingress.requests.base64_text import decode_base64
from serve_app.ingress.requests.body import read_body
from serve_app.ingress.requests.document_fields import OcrRequest
from serve_app.ingress.requests.submission import submission_of
from tests.support.samples import SAMPLES

MAX_BYTES = 1_000_000


async def _ocr(request: Request) -> JSONResponse:
    submission = await submission_of(await read_body(request, max_bytes=MAX_BYTES, stall_s=30), OcrRequest)
    source = submission.source
    return JSONResponse(
        {"bytes": None if source is None else bytes(source).decode("latin-1"), **submission.request.model_dump()}
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    middleware = [Middleware(RequestId), Middleware(ErrorResponses)]
    app = Starlette(routes=[Route("/ocr", _ocr, methods=["POST"])], middleware=middleware)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


def _code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert error["message"] and error["request_id"]
    return response.status_code, error["code"]


def _fields(response: httpx.Response) -> list[str]:
    return [problem["field"] for problem in response.json()["error"]["fields"]]


def _json(**fields: Any) -> dict[str, Any]:
    return {"image_base64": base64.b64encode(b"page").decode(), **fields}


async def test_the_same_fields_come_out_of_json_multipart_and_urlencoded(client: httpx.AsyncClient) -> None:
    options = {"language": "rus", "engine": "tesseract", "dpi": "300"}
    encoded = base64.b64encode(b"page").decode()
    answers = [
        (await client.post("/ocr", json={"image_base64": encoded, **options, "dpi": 300})).json(),
        (await client.post("/ocr", data=options, files={"file": ("page.png", b"page")})).json(),
        (await client.post("/ocr", data={"image_base64": encoded, **options})).json(),
    ]
    for answer in answers:
        assert answer["bytes"] == "page"
        assert (answer["language"], answer["engine"], answer["dpi"]) == ("rus", "tesseract", 300)


@pytest.mark.parametrize(
    "body",
    [b"", b"   ", b'{"image_url": ', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"[1]", b'"text"', b"9" * 10_000],
)
async def test_row_1_empty_truncated_and_nested_json_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/ocr", content=body, headers={"Content-Type": "application/json"})
    assert _code(response) == (400, "invalid_request")


async def test_a_field_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    twice = b'{"image_url": "http://a/", "image_url": "http://b/"}'
    response = await client.post("/ocr", content=twice, headers={"Content-Type": "application/json"})
    assert _code(response) == (400, "invalid_request")
    response = await client.post("/ocr", files=[("file", ("a", b"a")), ("file", ("b", b"b"))])
    assert _code(response) == (422, "invalid_field")


@pytest.mark.parametrize("fields", [{}, {"language": "rus"}, {"image_url": None}])
async def test_row_2_no_source_is_422(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert _code(await client.post("/ocr", json=fields)) == (422, "invalid_field")


async def test_row_2_two_sources_at_once_are_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/ocr", json=_json(image_url="http://example.com/a.png"))
    assert _code(response) == (422, "invalid_field")
    assert _fields(response) == ["image_base64", "image_url"]
    response = await client.post("/ocr", data={"image_url": "http://a/"}, files={"file": ("a", b"a")})
    assert _fields(response) == ["image_url", "file"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"image_base64": 5}', "image_base64"),
        ('{"image_base64": "AAAA", "dpi": NaN}', "dpi"),
        ('{"image_base64": "AAAA", "dpi": 1e99}', "dpi"),
        ('{"image_base64": "AAAA", "dpi": 10}', "dpi"),
        ('{"image_base64": "AAAA", "dpi": "many"}', "dpi"),
        ('{"image_base64": "AAAA", "dpi": true}', "dpi"),
        ('{"image_base64": "AAAA", "max_pages": true}', "max_pages"),
        ('{"image_base64": "AAAA", "language": ["rus"]}', "language"),
        ('{"image_base64": "AAAA", "langauge": "rus"}', "langauge"),
        ('{"file": "AAAA"}', "file"),
    ],
)
async def test_row_3_a_wrong_field_is_422_and_named(client: httpx.AsyncClient, body: str, field: str) -> None:
    response = await client.post("/ocr", content=body, headers={"Content-Type": "application/json"})
    assert _code(response) == (422, "invalid_field")
    assert _fields(response) == [field]
    assert field in response.json()["error"]["message"]


@pytest.mark.parametrize("value", [True, "many", 100.5, [100]])
async def test_a_resolution_that_is_no_number_is_told_so(client: httpx.AsyncClient, value: object) -> None:
    response = await client.post("/ocr", json=_json(dpi=value))
    assert response.json()["error"]["message"] == "dpi: must be a whole number"


async def test_a_field_name_of_a_megabyte_does_not_come_back(client: httpx.AsyncClient) -> None:
    response = await client.post("/ocr", json=_json(**{"x" * 100_000: 1}))
    assert _code(response) == (422, "invalid_field")
    assert len(response.content) < 1000


@pytest.mark.parametrize("kind", ["text/plain", "image/png", "application/octet-stream", ""])
async def test_row_4_another_content_type_is_415(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/ocr", content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert _code(response) == (415, "unsupported_media_type")
    assert "curl: -F file=@name" in response.json()["error"]["message"]


async def test_a_file_that_curl_sends_as_a_form_is_refused_with_how_to_send_it(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # that of `curl --data-binary @page.png`
    for sample in ("page-en.png", "scan.pdf"):
        response = await client.post("/ocr", content=(SAMPLES / sample).read_bytes(), headers=headers)
        assert _code(response) == (400, "invalid_request")
        assert "curl: -F file=@name" in response.json()["error"]["message"]


async def test_row_4_another_method_is_405(client: httpx.AsyncClient) -> None:
    assert (await client.get("/ocr")).status_code == 405


@pytest.mark.parametrize("text", ["####", "YWJ", "YWJj=", "====", "YW=Jj", "YWJjЯ", "data:image/png,YWJj", "YWJjZ"])
async def test_row_5_bad_base64_is_400(client: httpx.AsyncClient, text: str) -> None:
    assert _code(await client.post("/ocr", json={"image_base64": text})) == (400, "invalid_base64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("YWJj", b"abc"),
        ("YW\r\nJj \t", b"abc"),
        ("+/8=", b"\xfb\xff"),
        ("-_8=", b"\xfb\xff"),
        ("data:image/png;base64,YWJj", b"abc"),
        ("DATA:text/html;charset=utf-8;BASE64,YWJj", b"abc"),
        ("YWI", b"ab"),
        ("YQ", b"a"),
        ("-_8", b"\xfb\xff"),
        ("", b""),
    ],
)
def test_base64_in_every_usual_form(text: str, expected: bytes) -> None:
    assert decode_base64(text) == expected


def test_base64_errors_are_ours() -> None:
    with pytest.raises(InvalidBase64):
        decode_base64("a")


async def test_row_6_a_document_of_zero_bytes_is_422(client: httpx.AsyncClient) -> None:
    assert _code(await client.post("/ocr", json={"image_base64": ""})) == (422, "empty_document")
    assert _code(await client.post("/ocr", files={"file": ("a.png", b"")})) == (422, "empty_document")


async def test_row_8_a_body_over_the_limit_is_413_by_its_length_before_it_is_read(client: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        raise AssertionError("the body was read on")

    response = await client.post(
        "/ocr", content=never(), headers={"Content-Type": "application/json", "Content-Length": str(MAX_BYTES + 1)}
    )
    assert _code(response) == (413, "too_large")


async def test_row_8_a_chunked_body_over_the_limit_is_413_when_it_passes_it() -> None:
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 100_000
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(Exception, match="larger than 1 MB"):
        await read_body(Request(scope, receive), max_bytes=MAX_BYTES, stall_s=1)
    assert sent <= MAX_BYTES + 100_000


async def test_row_9_an_upload_that_stalls_is_408_and_closes_the_connection() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(UploadStalled):
        await read_body(Request(scope, receive), max_bytes=MAX_BYTES, stall_s=0.05)


async def test_an_upload_that_trickles_is_408_although_it_never_pauses_for_long() -> None:
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(UploadStalled):
        await read_body(Request(scope, receive), max_bytes=MAX_BYTES, stall_s=0.2)
    assert sent < 15


async def test_the_time_that_the_service_takes_between_parts_is_not_the_clients_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("serve_app.ingress.requests.body.time", SimpleNamespace(monotonic=lambda: now))
    parts = [b'{"image_base64": ', b'"AAAA"', b"}"]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    request = Request(scope, receive)
    body = bytearray()

    class Slow(Request):
        async def body(self) -> bytes:
            nonlocal now
            async for part in self.stream():
                body.extend(part)
                now += 100  # the service is busy with this part
            return bytes(body)

    monkeypatch.setattr("serve_app.ingress.requests.body.Request", Slow)
    read = await read_body(request, max_bytes=MAX_BYTES, stall_s=1)
    assert read.fields == {"image_base64": "AAAA"}


@pytest.mark.parametrize("value", ['{"0":1' + ',"a":1' * 100_000 + "}", '{"x":[' + "[]," * 100_000 + "1]}"])
async def test_json_of_very_many_values_is_refused_before_it_is_parsed(client: httpx.AsyncClient, value: str) -> None:
    response = await client.post("/ocr", content=value, headers={"Content-Type": "application/json"})
    assert _code(response) == (400, "invalid_request")
    assert "too many parts" in response.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["punycode", "undefined", "unicode_escape", "nonsense"])
async def test_a_forms_charset_is_not_obeyed_blindly(client: httpx.AsyncClient, charset: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="dpi"\r\n\r\n\xff\r\n--x--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert _code(await client.post("/ocr", content=body, headers=headers)) == (400, "invalid_request")


async def test_a_field_name_that_is_no_text_is_still_an_answer(client: httpx.AsyncClient) -> None:
    body = b'{"image_base64": "AAAA", "\\ud800": 1}'
    response = await client.post("/ocr", content=body, headers={"Content-Type": "application/json"})
    assert _code(response) == (422, "invalid_field")
    assert _fields(response) == ["?"]


async def test_row_10_a_compressed_body_is_415(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.post("/ocr", content=b"\x1f\x8b", headers=headers)
    assert _code(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename*=UTF-8''%D0%A1%D1%87%D1%91%D1%82%205.png", "Счёт 5.png"),
        ("filename*=utf-8'ru'%D0%A1%D1%87%D1%91%D1%82.png; filename=\"plain.png\"", "plain.png"),
        ("filename*=windows-1251''%D1%F7%B8%F2.png", "Счёт.png"),
        ("filename*=nothing''%D1%F7.png", "document"),
        ("filename*=UTF-8''a%22%0D%0Ab.png", "ab.png"),
        ("filename*=''..%2F..%2Fetc%2Fpasswd", "passwd"),
    ],
)
async def test_a_file_name_in_the_extended_form_alone_makes_a_file(parameters: str, name: str) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="file"; {parameters}\r\n\r\npage\r\n--x--\r\n'.encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "path": "/ocr", "headers": headers}, receive)
    read = await read_body(request, max_bytes=MAX_BYTES, stall_s=30)
    assert read.file is not None
    assert (bytes(read.file), read.file_name) == (b"page", name)


async def test_row_11_multipart_without_a_boundary_is_400(client: httpx.AsyncClient) -> None:
    response = await client.post("/ocr", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert _code(response) == (400, "invalid_request")


async def test_row_11_ten_thousand_parts_are_400(client: httpx.AsyncClient) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="f{n}"\r\n\r\nv\r\n'
    body = "".join(part.format(n=n) for n in range(10_000)) + "--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert _code(await client.post("/ocr", content=body.encode(), headers=headers)) == (400, "invalid_request")


async def test_row_11_a_huge_part_header_is_400(client: httpx.AsyncClient) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + b"a" * 500_000 + b'"\r\n\r\nv\r\n--x--\r\n'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert _code(await client.post("/ocr", content=body, headers=headers)) == (400, "invalid_request")


async def test_half_a_multipart_upload_is_not_taken_for_a_whole_file(client: httpx.AsyncClient) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf of it'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert _code(await client.post("/ocr", content=body, headers=headers)) == (422, "invalid_field")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/abs", "a\x00b", "х" * 2048, "\u202egnp.exe"])
async def test_row_12_a_file_name_is_never_used(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/ocr", files={"file": (name, b"page")})
    assert response.json()["bytes"] == "page"


async def test_empty_form_fields_that_browsers_send_are_as_if_absent(client: httpx.AsyncClient) -> None:
    data = {"image_url": "", "image_base64": "", "language": "", "dpi": ""}
    response = await client.post("/ocr", data=data, files={"file": ("a", b"page")})
    assert response.json()["bytes"] == "page"


async def test_a_file_sent_as_text_says_how_to_send_it(client: httpx.AsyncClient) -> None:
    response = await client.post("/ocr", data={"file": "page.png"})
    assert _fields(response) == ["file"]
    assert "-F file=@" in response.json()["error"]["message"]


async def test_a_large_base64_document_is_decoded_off_the_event_loop(client: httpx.AsyncClient) -> None:
    document = b"p" * 600_000
    response = await client.post(
        "/ocr",
        content=json.dumps({"image_base64": base64.b64encode(document).decode()}),
        headers={"Content-Type": "application/json"},
    )
    assert response.json()["bytes"] == document.decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 5000 + "]" * 5000, "is not a JSON object"),
        ('{"maxNewTokens": 1, "maxNewTokens": 2}', "A JSON object has the same field twice"),
        ("[" + "1," * 20_000 + "1]", "may have at most 10000 characters"),
        ("[]", "must be a JSON object"),
        ("5", "must be a JSON object"),
    ],
    ids=["deep", "twice", "long", "list", "number"],
)
async def test_options_in_a_form_are_bounded_before_they_are_parsed(
    client: httpx.AsyncClient, text: str, problem: str
) -> None:
    answer = await client.post("/ocr", files={"file": b"page"}, data={"options": text})
    assert answer.status_code in (400, 422) and problem in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("layoutThreshold", 7, "a number from 0 to 1, or an object with one per class"),
        ("layoutThreshold", {f"class_{n}": 0.5 for n in range(51)}, "a number from 0 to 1"),
        ("layoutUnclipRatio", [1], "a pair (width, height)"),
        ("layoutMergeBboxesMode", "big", "or their `union`"),
        ("markdownIgnoreLabels", "table", "must be a list"),
        ("maxNewTokens", "many", "must be a whole number"),
        ("useSealRecognition", "perhaps", "must be true or false"),
        ("noSuch", 1, "is not a known field"),
        ("vlmExtraArgs", {"ocr_min_pixels": 1}, "must be at least 784"),
    ],
)
async def test_a_refused_option_is_told_by_its_name_and_in_plain_words(
    client: httpx.AsyncClient, option: str, value: Any, words: str
) -> None:
    answer = await client.post("/ocr", json=_json(options={option: value}))
    assert _code(answer) == (422, "invalid_field")
    (problem,) = answer.json()["error"]["fields"]
    assert problem["field"].startswith(f"options.{option}") and words in problem["message"]
    assert not any(mark in problem["field"] for mark in "[-")  # of pydantic's names for types


async def test_a_misspelt_field_is_told_what_it_may_have_been(client: httpx.AsyncClient) -> None:
    for name, words in (("image_ulr", "did you mean 'image_url'?"), ("File", "did you mean 'file'?")):
        answer = await client.post("/ocr", json=_json(**{name: "x"}))
        assert _code(answer) == (422, "invalid_field") and words in answer.json()["error"]["message"]
    far = await client.post("/ocr", json=_json(completely="x"))
    assert "did you mean" not in far.json()["error"]["message"]


async def test_a_long_name_of_an_unknown_field_costs_nothing(client: httpx.AsyncClient) -> None:
    started = time.process_time()
    answer = await client.post("/ocr", json={"a" * 900_000: 1})
    assert _code(answer) == (422, "invalid_field") and time.process_time() - started < 0.3


@pytest.mark.parametrize(
    "body", [b"&" * 900_000, b"a=1&" * 30, b"image_base64=" + b"%41" * 300_000], ids=["&", "fields", "%"]
)
async def test_an_urlencoded_form_of_many_parts_is_refused_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(body_module, "MAX_ESCAPES", 200_000)
    started = time.process_time()
    answer = await client.post("/ocr", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert _code(answer) == (400, "invalid_request") and time.process_time() - started < 0.3
    assert "multipart/form-data" in answer.json()["error"]["message"]


async def test_a_json_body_has_options_as_an_object_only(client: httpx.AsyncClient) -> None:
    answer = await client.post("/ocr", json=_json(options='{"maxNewTokens": 5}'))
    assert _code(answer) == (422, "invalid_field") and _fields(answer) == ["options"]
