"""PaddleX's self-hosted API over HTTP, with Tesseract: what its clients send, and what they look for."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import httpx
import numpy as np
import pytest
from PIL import Image
from rapidfuzz import fuzz

from tests.support.http_server import http_server
from tests.support.pdfs import pages_pdf, scan
from tests.support.service import KEY, Service
from tests.support.swift_fixture import SwiftServer


def post(service: Service, path: str, body: Any, **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.post(path, json=body, headers=headers)


def result_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert (told["errorCode"], told["errorMsg"]) == (0, "Success") and told["logId"]
    result: dict[str, Any] = told["result"]
    return result


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("more", [{}, {"fileType": 1}, {"fileType": 0}, {"useChartRecognition": True, "foo": 1}])
def test_layout_parsing_of_an_image_with_and_without_its_type(
    service: Service, russian_page: bytes, russian_text: str, more: dict[str, Any]
) -> None:
    result = result_of(post(service, "/layout-parsing", {"file": b64(russian_page), **more}))
    (page,) = result["layoutParsingResults"]
    assert page["markdown"]["images"] == {} and fuzz.ratio(page["markdown"]["text"].split(), russian_text.split()) > 97
    pruned = page["prunedResult"]
    with Image.open(io.BytesIO(russian_page)) as image:
        assert (pruned["width"], pruned["height"]) == image.size
        assert result["dataInfo"] == {"width": image.width, "height": image.height, "type": "image"}
    settings = pruned["model_settings"]
    assert settings["use_layout_detection"] is True and settings["use_chart_recognition"] is False
    listed = pruned["parsing_res_list"]
    contents = " ".join(block["block_content"] for block in listed)
    assert contents.split() == page["markdown"]["text"].replace("\\", "").split()
    assert [block["block_id"] for block in listed] == list(range(len(listed)))
    assert [box["coordinate"] for box in pruned["layout_det_res"]["boxes"]] == [b["block_bbox"] for b in listed]
    assert not {"input_path", "page_index"} & pruned.keys()
    assert not {"outputImages", "inputImage", "exports"} & page.keys()


def test_pages_of_a_pdf_are_drawn_at_twice_their_points(service: Service, russian_page: bytes) -> None:
    result = result_of(post(service, "/layout-parsing", {"file": b64(pages_pdf([b"", b""], size=(300, 200)))}))
    sizes = [{"width": 600, "height": 400}] * 2
    assert result["dataInfo"] == {"numPages": 2, "pages": sizes, "type": "pdf"}
    assert [page["prunedResult"]["width"] for page in result["layoutParsingResults"]] == [600, 600]


def test_every_page_is_there_and_a_bad_one_says_so(service: Service, russian_page: bytes) -> None:
    book = scan(*[russian_page] * 3, damaged=2)
    result = result_of(post(service, "/layout-parsing", {"file": b64(book), "logId": "мой"}))
    pages = result["layoutParsingResults"]
    assert [bool(page["markdown"]["text"]) for page in pages] == [True, True, False]
    assert pages[2]["error"]["code"] == "corrupt_document" and pages[2]["prunedResult"]["parsing_res_list"] == []
    many = result_of(post(service, "/layout-parsing", {"file": b64(pages_pdf([b""] * 25, size=(50, 50)))}))
    assert len(many["layoutParsingResults"]) == 25, "there is no limit of ten pages that nobody is told of"


def test_pictures_exports_and_figures_are_there_where_asked_for(service: Service, english_page: bytes) -> None:
    with Image.open(io.BytesIO(english_page)) as opened:
        page = opened.convert("RGB")
    noise = np.random.default_rng(1).integers(0, 255, (500, 800, 3), dtype=np.uint8)
    page.paste(Image.fromarray(noise).resize((800, 500)), (400, 1500))
    stream = io.BytesIO()
    page.save(stream, "PNG")
    asked = {"file": b64(scan(stream.getvalue(), stream.getvalue())), "visualize": True, "outputFormats": ["docx"]}
    for index, told in enumerate(result_of(post(service, "/layout-parsing", asked))["layoutParsingResults"]):
        for picture in (told["inputImage"], told["outputImages"]["layout_det_res"]):
            with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                assert image.format == "JPEG"
        linked = re.findall(r'<img src="(imgs/img_in_[a-z_]+_box_[\d_]+\.jpg)"', told["markdown"]["text"])
        assert linked and set(linked) == set(told["markdown"]["images"])
        export = told["exports"]["docx"]
        document = docx.Document(io.BytesIO(base64.b64decode(export["content"])))
        assert export["fileName"] == f"page-{index + 1}.docx" and len(document.inline_shapes) == len(linked)
        assert "\n".join(p.text for p in document.paragraphs).strip()
    asked |= {"returnMarkdownImages": False, "visualize": False}
    told = result_of(post(service, "/layout-parsing", asked))["layoutParsingResults"][0]
    assert told["markdown"]["images"] == {} and "inputImage" not in told
    plain = result_of(post(service, "/layout-parsing", {**asked, "prettifyMarkdown": False}))["layoutParsingResults"][0]
    assert "![](imgs/img_in_" in plain["markdown"]["text"] and "<img" not in plain["markdown"]["text"]


def test_lines_words_and_scores_of_plain_ocr(service: Service, russian_page: bytes, russian_text: str) -> None:
    asked = {"file": b64(russian_page), "returnWordBox": True, "textDetLimitSideLen": 960, "visualize": True}
    result = result_of(post(service, "/ocr", asked))
    (page,) = result["ocrResults"]
    pruned = page["prunedResult"]
    texts, scores, polys, boxes = (pruned[f"rec_{name}"] for name in ("texts", "scores", "polys", "boxes"))
    assert " ".join(texts).split() == russian_text.split()
    assert len(texts) == len(scores) == len(polys) == len(boxes) == len(pruned["text_word"]) > 3
    assert all(0 <= score <= 1 for score in scores)
    for box, poly, words in zip(boxes, polys, pruned["text_word_boxes"], strict=True):
        left, top, right, bottom = box
        assert poly == [[left, top], [right, top], [right, bottom], [left, bottom]]
        assert all(left <= x1 < x2 <= right and top <= y1 < y2 <= bottom for x1, y1, x2, y2 in words)
    assert page["ocrImage"] and page["inputImage"] and result["dataInfo"]["type"] == "image"
    strict = result_of(post(service, "/ocr", {"file": b64(russian_page), "textRecScoreThresh": 1.0}))
    assert len(strict["ocrResults"][0]["prunedResult"]["rec_texts"]) < len(texts)


def test_a_url_is_fetched_and_a_data_uri_is_decoded(service: Service, russian_page: bytes, russian_text: str) -> None:
    with http_server({"/page": russian_page}) as server:
        fetched = result_of(post(service, "/ocr", {"file": f"{server}/page"}))
    uri = result_of(post(service, "/ocr", {"file": "data:image/png;base64," + b64(russian_page)}))
    for result in (fetched, uri):
        assert " ".join(result["ocrResults"][0]["prunedResult"]["rec_texts"]).split() == russian_text.split()


@pytest.mark.parametrize("path", ["/layout-parsing", "/ocr"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"file": "@@@"}, 400, "invalid_base64"),
        ({"file": ""}, 422, "empty_document"),
        ({"file": 7}, 422, "invalid_field"),
        ({"file": "aGVsbG8gd29ybGQ=", "fileType": 7}, 422, "invalid_field"),
        ({"file": "aGVsbG8gd29ybGQ="}, 415, "unsupported_media_type"),
        ({"file": "http://127.0.0.1:9/x"}, 403, "url_forbidden"),
        ({"file": "ftp://example.com/x"}, 400, "scheme_not_allowed"),
        ({"file": b64(b"%PDF-1.7 nothing")}, 422, "corrupt_document"),
    ],
)
def test_errors_have_the_envelope_and_the_status(
    service: Service, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = post(service, path, {**body, "logId": "label/../x"})
    told = answer.json()
    assert (answer.status_code, told["errorCode"], told["error"]["code"]) == (status, status, code), told
    assert told["logId"] == "label/../x" and told["errorMsg"] == told["error"]["message"]
    assert "result" not in told


def test_what_is_not_json_and_who_has_no_key(service: Service) -> None:
    with service.client() as client:
        form = client.post("/layout-parsing", files={"file": b"x"})
        broken = client.post("/layout-parsing", content=b"{", headers={"Content-Type": "application/json"})
        anonymous = httpx.post(f"{service.url}/layout-parsing", json={"file": "x"})
        wrong = client.get("/layout-parsing")
    for answer, status in ((form, 415), (broken, 400), (anonymous, 401), (wrong, 405)):
        assert (answer.status_code, answer.json()["errorCode"]) == (status, status)
    assert anonymous.headers["www-authenticate"] == "Bearer"
    for header in ({"Authorization": f"token {KEY}"}, {"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}):
        answer = httpx.post(f"{service.url}/layout-parsing", json={"file": ""}, headers=header)
        assert answer.json()["error"]["code"] == "empty_document"


def test_restructured_pages(service: Service, russian_page: bytes, english_page: bytes) -> None:
    book = b64(scan(russian_page, english_page))
    first = result_of(post(service, "/layout-parsing", {"file": book}))["layoutParsingResults"]
    at_once = result_of(post(service, "/layout-parsing", {"file": book, "restructurePages": True}))
    pages = [{"prunedResult": page["prunedResult"], "markdownImages": {"a.jpg": "AAAA"}} for page in first]
    apart = result_of(post(service, "/restructure-pages", {"pages": pages, "outputFormats": ["docx"]}))
    assert "dataInfo" not in apart
    ids = [b["global_block_id"] for p in apart["layoutParsingResults"] for b in p["prunedResult"]["parsing_res_list"]]
    assert ids == list(range(len(ids)))
    for one, other, plain in zip(at_once["layoutParsingResults"], apart["layoutParsingResults"], first, strict=True):
        assert one["prunedResult"] == other["prunedResult"]
        assert other["markdown"]["images"] == {"a.jpg": "AAAA"} and other["exports"]["docx"]["content"]
        assert one["markdown"]["text"] == other["markdown"]["text"] == plain["markdown"]["text"]
    (whole,) = result_of(post(service, "/restructure-pages", {"pages": pages, "concatenatePages": True}))[
        "layoutParsingResults"
    ]
    assert len(whole["prunedResult"]["parsing_res_list"]) == len(ids) and whole["prunedResult"]["page_count"] == 2
    wrongs: list[Any] = [[], [{"prunedResult": {}}], [{"prunedResult": {"parsing_res_list": [1]}}], "x", [{}]]
    for wrong in wrongs:
        answer = post(service, "/restructure-pages", {"pages": wrong})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field"), wrong


def test_an_open_surface_needs_no_key_and_the_others_do(deployed: Any, russian_page: bytes) -> None:
    service = deployed({"engines": [{"name": "dummy", "replicas": 1}], "open_surfaces": ["paddlex"]})
    service.wait_until_engines_are_ready()
    for path in ("/layout-parsing", "/ocr"):
        assert httpx.post(f"{service.url}{path}", json={"file": b64(russian_page)}).status_code == 200
        wrong = {"Authorization": "Bearer wrong"}
        assert httpx.post(f"{service.url}{path}", json={"file": ""}, headers=wrong).status_code == 401
    for body in ({"json": {"image_base64": b64(russian_page)}}, {"files": {"file": russian_page}}):
        assert httpx.post(f"{service.url}/ocr", **body).status_code == 401
    assert httpx.get(f"{service.url}/health").status_code == 401
    # A form is none of PaddleX's: nobody waits for what comes after its headers.
    host, port = httpx.URL(service.url).host, httpx.URL(service.url).port
    head = f"POST /{service.name}/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\nContent-Type: multipart/form-data; boundary=b"
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(f"{head}\r\n\r\n--b\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
    schema = httpx.get(f"{service.url}/openapi.json").json()
    assert {"/layout-parsing", "/restructure-pages"} <= schema["paths"].keys()
    assert "file" in json.dumps(schema["paths"]["/layout-parsing"])
    assert "textRecScoreThresh" in json.dumps(schema["paths"]["/ocr"])


def pictures_of(service: Service, page: bytes) -> list[str]:
    asked = {"file": b64(scan(page, page)), "visualize": True}
    pages = result_of(post(service, "/layout-parsing", asked))["layoutParsingResults"]
    lines = result_of(post(service, "/ocr", asked))["ocrResults"]
    told = [picture for page in pages for picture in (page["inputImage"], page["outputImages"]["layout_det_res"])]
    return told + [picture for page in lines for picture in (page["inputImage"], page["ocrImage"])]


def is_jpeg(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.format == "JPEG"


def test_pictures_are_urls_of_the_folder_where_the_settings_say_so(
    deployed: Callable[..., Service], tmp_path: Path, russian_page: bytes
) -> None:
    settings = {"engines": [{"name": "dummy", "replicas": 1}], "paddlex_images": "urls", "link_s": 3}
    service = deployed(settings)
    urls = pictures_of(service, russian_page)
    assert len(set(urls)) == 8 and all(url.startswith(f"{service.url}/files/20") for url in urls)
    answers = [httpx.get(url) for url in urls]
    assert all(is_jpeg(answer.content) and answer.headers["content-type"] == "image/jpeg" for answer in answers)
    page_1, page_2 = urls[0], urls[2]
    other = page_1.partition("?")[0] + "?" + page_2.partition("?")[2]
    for forged in (other, page_1 + "0", page_1.partition("?")[0], page_1.replace("page-1.jpg", "..%2Fresult.json")):
        refused = httpx.get(forged)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "link_invalid"), forged
    time.sleep(3.1)
    ended = httpx.get(page_1)
    assert (ended.status_code, ended.json()["error"]["code"]) == (410, "link_expired")

    # Nothing is behind a URL where nothing could be stored.
    fresh = pictures_of(service, russian_page)[0]
    (tmp_path / "output").rename(tmp_path / "away")
    (tmp_path / "output").write_text("in the way")
    away = httpx.get(fresh)
    assert (away.status_code, away.json()["error"]["code"]) == (503, "service_unavailable")
    assert away.headers["Retry-After"]
    assert all(is_jpeg(base64.b64decode(picture)) for picture in pictures_of(service, russian_page))


def test_pictures_are_presigned_by_the_bucket(
    deployed: Callable[..., Service], swift: SwiftServer, russian_page: bytes
) -> None:
    store = {"kind": "s3", "bucket": swift.bucket, "region": swift.region, "addressing_style": "path"}
    store |= {"endpoint_url": swift.endpoint_url}
    keys = {"OCR_S3_ACCESS_KEY_ID": swift.access_key, "OCR_S3_SECRET_ACCESS_KEY": swift.secret_key}
    service = deployed(
        {"engines": [{"name": "dummy", "replicas": 1}], "paddlex_images": "urls", "store": store}, secrets=keys
    )
    urls = pictures_of(service, russian_page)
    assert all(url.startswith(f"{swift.endpoint_url}/{swift.bucket}/20") for url in urls)
    assert all(is_jpeg(httpx.get(url).content) for url in urls)
    with service.client() as client:
        assert client.get("/files/20/x.jpg?expires=1&signature=1").status_code == 404


def test_a_label_that_is_no_text_is_refused_as_anything_else(service: Service) -> None:
    body = b'{"file": "x", "logId": "\\ud800"}'
    with service.client() as client:
        answer = client.post("/layout-parsing", content=body, headers={"Content-Type": "application/json"})
    told = answer.json()
    assert (answer.status_code, told["errorCode"]) == (422, 422) and told["logId"], told


@pytest.mark.parametrize(
    "page",
    [
        '{"parsing_res_list": []}',
        '{"width": 1, "height": 1e400, "parsing_res_list": []}',
        '{"width": 1, "height": 1, "parsing_res_list": [{"block_label": "a", "block_content": "b", "block_bbox": [1e400, 0, 1, 1]}]}',
        '{"width": 1, "height": 1, "parsing_res_list": [], "x": NaN}',
    ],
)
def test_pages_that_are_none_are_refused(service: Service, page: str) -> None:
    body = f'{{"outputFormats": ["docx"], "pages": [{{"prunedResult": {page}}}]}}'
    with service.client() as client:
        answer = client.post("/restructure-pages", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["fields"][0]["field"]) == (422, "pages.0.prunedResult"), (
        answer.text
    )
