"""An image in, its text out: the three inputs, the typed document, the store."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import boto3
import httpx
import pytest
from PIL import Image

from serve_app.metrics.catalogue import (
    DOCUMENT_STAGE_SECONDS,
    KEY_PAGES,
    OUTPUT_SECONDS,
    PAGE_STAGE_SECONDS,
    REQUESTS,
)
from tests.support.http_server import http_server
from tests.support.metrics import grows
from tests.support.samples import SAMPLES
from tests.support.service import Service
from tests.support.swift_fixture import SwiftServer


def words(text: str) -> list[str]:
    return text.split()


def test_a_russian_page_by_every_input_comes_back_without_a_wrong_character(
    service: Service, russian_page: bytes, russian_text: str
) -> None:
    encoded = base64.b64encode(russian_page).decode()
    with service.client() as client, http_server({f"/{quote('страница')}.png": russian_page}) as server:
        url = f"{server}/страница.png"
        answers = [
            client.post("/ocr", files={"file": ("страница.png", russian_page)}),
            client.post("/ocr", json={"image_base64": encoded}),
            client.post("/ocr", data={"image_base64": encoded}),
            client.post("/ocr", json={"image_url": url}),
            client.post("/ocr", data={"image_url": url}),
        ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert words(answer.json()["text"]) == words(russian_text)
    assert answers[3].json()["timings_ms"]["fetch"] > 0


def test_the_document_is_typed_and_whole(service: Service, russian_page: bytes) -> None:
    with (
        service.client() as client,
        grows(REQUESTS, key="alice", status="200", reason=""),
        grows(KEY_PAGES, key="alice"),
        grows(PAGE_STAGE_SECONDS, stage="recognize", engine="tesseract"),
        grows(DOCUMENT_STAGE_SECONDS, stage="receive"),
        grows(DOCUMENT_STAGE_SECONDS, stage="store"),
        grows(OUTPUT_SECONDS, 2, output="json"),  # for the store, and for the client
    ):
        document = client.post("/ocr", files={"file": russian_page}, data={"dpi": "200"}).json()
    assert document["status"] == "done"
    assert document["engine"]["name"] == "tesseract" and document["engine"]["version"]
    assert {"receive", "rasterize", "queue", "recognize", "store", "total"} <= document["timings_ms"].keys()
    assert document["timings_ms"]["total"] >= document["timings_ms"]["recognize"] > 0
    (page,) = document["pages"]
    with Image.open(io.BytesIO(russian_page)) as image:
        assert (page["width"], page["height"]) == image.size
    assert (page["number"], page["dpi"], page["error"]) == (1, 200, None)
    assert [block["order"] for block in page["blocks"]] == list(range(len(page["blocks"])))
    for block in page["blocks"]:
        left, top, right, bottom = block["bbox"]
        assert 0 <= left < right <= page["width"] and 0 <= top < bottom <= page["height"]
        assert 0 <= block["confidence"] <= 1
        assert words(block["text"]) == [word["text"] for word in block["words"]]
    assert page["text"] == document["text"] == "\n\n".join(block["text"] for block in page["blocks"])


def test_text_and_markdown_alone_on_request(service: Service, russian_page: bytes, russian_text: str) -> None:
    with service.client() as client:
        plain = client.post("/ocr", files={"file": russian_page}, headers={"Accept": "text/plain"})
        markdown = client.post("/ocr", files={"file": russian_page}, headers={"Accept": "text/markdown"})
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert words(plain.text) == words(russian_text)
    assert markdown.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "Договор" in markdown.text or len(words(markdown.text)) == len(words(russian_text))


def test_the_result_lies_in_the_folder_before_the_answer(
    service: Service, output_dir: Path, russian_page: bytes
) -> None:
    with service.client() as client:
        document = client.post("/ocr", files={"file": russian_page}, data={"engine": "dummy"}).json()
    keys = document["storage"]["keys"]
    day = datetime.now(UTC).strftime("%Y/%m/%d")
    assert keys == {
        "result": f"{day}/{document['id']}/result.json",
        "markdown": f"{day}/{document['id']}/result.md",
        "source": f"{day}/{document['id']}/source",
    }
    assert document["storage"]["status"] == "stored"
    stored = json.loads((output_dir / keys["result"]).read_text())
    assert stored["pages"] == document["pages"] and stored["storage"] == document["storage"]
    assert (output_dir / keys["markdown"]).read_text() == document["markdown"]
    assert (output_dir / keys["source"]).read_bytes() == russian_page


def test_the_result_lies_in_the_bucket_where_s3_is_configured(
    deployed: Callable[..., Service], swift: SwiftServer, russian_page: bytes
) -> None:
    store = {
        "kind": "s3",
        "bucket": swift.bucket,
        "prefix": "архив/ocr",
        "endpoint_url": swift.endpoint_url,
        "region": swift.region,
        "addressing_style": "path",
    }
    secrets = {"OCR_S3_ACCESS_KEY_ID": swift.access_key, "OCR_S3_SECRET_ACCESS_KEY": swift.secret_key}
    service = deployed({"engines": [{"name": "dummy", "replicas": 1, "text": "Ёлка"}], "store": store}, secrets=secrets)
    service.wait_until_engines_are_ready()
    with service.client() as client:
        document = client.post("/ocr", files={"file": russian_page}).json()
        health = client.get("/health").json()
    assert (health["status"], health["s3_storage"]) == ("healthy", "configured")
    assert health["output_dir"].startswith(f"s3://{swift.bucket}/")
    assert document["storage"]["uri"] == f"s3://{swift.bucket}/архив/ocr/{document_folder(document['id'])}"
    s3 = boto3.client(
        "s3",
        endpoint_url=swift.endpoint_url,
        region_name=swift.region,
        aws_access_key_id=swift.access_key,
        aws_secret_access_key=swift.secret_key,
    )
    key = document["storage"]["keys"]["result"]
    stored = s3.get_object(Bucket=swift.bucket, Key=key)
    assert key.startswith("архив/ocr/2") and stored["ContentType"] == "application/json"
    assert json.loads(stored["Body"].read())["text"] == "Ёлка"
    markdown = s3.get_object(Bucket=swift.bucket, Key=document["storage"]["keys"]["markdown"])
    assert markdown["Body"].read().decode() == document["markdown"]
    assert "source" not in document["storage"]["keys"]


def document_folder(document_id: str) -> str:
    return re.sub(r"^(\d{4})(\d\d)(\d\d)-.*", rf"\1/\2/\3/{document_id}", document_id)


@pytest.mark.parametrize(("spool_mb", "status"), [(1, "spooled"), (0, "failed")])
def test_row_47_an_s3_store_that_is_away_delays_the_copy_and_not_the_answer(
    deployed: Callable[..., Service], russian_page: bytes, spool_mb: float, status: str
) -> None:
    store = {"kind": "s3", "bucket": "b", "endpoint_url": "http://127.0.0.1:9", "region": "us-east-1"}
    secrets = {"OCR_S3_ACCESS_KEY_ID": "k", "OCR_S3_SECRET_ACCESS_KEY": "s"}
    service = deployed(
        {"engines": [{"name": "dummy", "replicas": 1}], "store": store, "spool_mb": spool_mb}, secrets=secrets
    )
    service.wait_until_engines_are_ready()
    with service.client() as client:
        answer = client.post("/ocr", files={"file": russian_page})
        health = client.get("/health").json()
    document = answer.json()
    assert document["text"] == "dummy"
    assert document["storage"]["status"] == answer.headers["X-Storage-Status"] == status
    assert document["storage"]["keys"].keys() == ({"result", "markdown"} if spool_mb else set())
    assert (health["spool"] or {"results": None})["results"] == (1 if spool_mb else None)
    assert (health["status"], health["s3_storage"]) == ("degraded", "degraded")


def test_languages_are_checked_before_the_engine_sees_them(service: Service, russian_page: bytes) -> None:
    with service.client() as client:
        english = client.post("/ocr", files={"file": (SAMPLES / "page-en.png").read_bytes()}, data={"language": "eng"})
        unknown = client.post("/ocr", files={"file": russian_page}, data={"language": "eng+deu"})
        no_choice = client.post("/ocr", files={"file": russian_page}, data={"language": "rus", "engine": "dummy"})
        no_engine = client.post("/ocr", files={"file": russian_page}, data={"engine": "paddle"})
    assert words(english.json()["text"]) == words((SAMPLES / "page-en.txt").read_text())
    assert unknown.status_code == 422 and "rus, eng" in unknown.json()["error"]["message"]
    assert no_choice.json()["error"]["fields"][0]["field"] == "language"
    assert "tesseract, dummy" in no_engine.json()["error"]["message"]


def test_a_client_leaves_out_what_the_answer_does_not_need(service: Service) -> None:
    """An id from the client labels the request; the document's id, and so its key, is the server's."""
    with service.client() as client:
        page = io.BytesIO()
        Image.new("RGB", (60, 60), "white").save(page, "PNG")
        answers = [
            client.post(
                "/ocr", files={"file": page.getvalue()}, data={"engine": "dummy"}, headers={"X-Request-ID": "same"}
            )
            for _ in range(2)
        ]
    assert [answer.headers["x-request-id"] for answer in answers] == ["same", "same"]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert answers[0].headers["x-document-id"] == answers[0].json()["id"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.png", "http://localhost/x", "http://[::1]/x", "http://169.254.169.254/"]
)
def test_row_15_an_address_inside_is_403(service: Service, url: str) -> None:
    with service.client() as client:
        answer = client.post("/ocr", json={"image_url": url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "url_forbidden")


def test_rows_14_18_20_21_of_urls(service: Service) -> None:
    with service.client() as client, http_server({"/login": b"<!doctype html><title>login</title>"}) as server:

        def code(url: str) -> tuple[int, str]:
            answer = client.post("/ocr", json={"image_url": url})
            return answer.status_code, answer.json()["error"]["code"]

        assert code("file:///etc/passwd") == (400, "scheme_not_allowed")
        assert code("HTTP://169.254.169.254/") == (403, "url_forbidden")
        assert code("http://ok\\@evil/") == (400, "invalid_url")
        assert code(f"{server}/missing") == (422, "url_fetch_failed")
        assert code(f"{server}/login") == (415, "unsupported_media_type")


def test_a_plain_httpx_post_of_a_raw_body_says_what_to_send(service: Service, russian_page: bytes) -> None:
    with service.client() as client:
        answer = client.post("/ocr", content=russian_page, headers={"Content-Type": "image/png"})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]
    assert isinstance(answer, httpx.Response)
