"""Warnings of pages and files, in every form in which a document leaves the service."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.job_client import submit, wait_for_end
from tests.support.pdfs import pages_pdf
from tests.support.service import Service


@pytest.fixture(scope="module")
def damaged() -> bytes:
    """A TIFF of two pages; the end of the second one is missing."""
    pages = [Image.new("L", (300, 200), 255), Image.linear_gradient("L").resize((300, 200))]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()[:-30_000]


@pytest.fixture(scope="module")
def typed() -> bytes:
    """In a font that is not embedded, so that PDF/A needs its page drawn."""
    return pages_pdf([b"BT /F1 20 Tf 20 50 Td (typed) Tj ET"], size=(100, 100))


def ocr(service: Service, file: bytes, **fields: str) -> httpx.Response:
    with service.client() as client:
        answer = client.post("/ocr", files={"file": file}, data={"engine": "dummy", **fields})
    assert answer.status_code == 200, answer.text
    return answer


def codes(page: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in page["warnings"]]


def test_a_page_has_its_warning_and_the_document_the_numbers_of_such_pages(service: Service, damaged: bytes) -> None:
    document = ocr(service, damaged).json()
    assert [codes(page) for page in document["pages"]] == [[], ["damaged_image"]]
    assert (document["page_warnings"], document["degraded"], document["warnings"]) == ({"damaged_image": [2]}, True, [])
    *_, last = ocr(service, damaged, output="ndjson").text.splitlines()
    assert json.loads(last)["page_warnings"] == {"damaged_image": [2]}


@pytest.mark.parametrize("output", ["json", "text", "markdown", "html", "docx", "pdf", "zip", "hocr", "alto"])
def test_a_header_has_the_codes_in_every_form(service: Service, damaged: bytes, output: str) -> None:
    assert ocr(service, damaged, output=output).headers["X-Document-Warnings"] == "damaged_image"
    assert "X-Document-Warnings" not in ocr(service, damaged, output=output, pages="1").headers


@pytest.mark.parametrize("output", ["pdf", "zip"])
def test_a_header_has_the_codes_of_the_file_itself(service: Service, typed: bytes, output: str) -> None:
    assert ocr(service, typed, output=output, pdf_a="true").headers["X-Document-Warnings"] == "pages_drawn"


def test_a_job_keeps_warnings_in_its_result_and_its_files(service: Service, damaged: bytes, typed: bytes) -> None:
    with service.client() as client:
        job = wait_for_end(client, submit(client, damaged, engine="dummy", outputs="text"))
        address = f"/jobs/{job['id']}/result"
        assert client.get(address).json()["page_warnings"] == {"damaged_image": [2]}
        for output in ("text", "html"):  # kept, and written now
            sent = client.get(address, params={"output": output})
            assert sent.headers["X-Document-Warnings"] == "damaged_image"

        job = wait_for_end(client, submit(client, typed, engine="dummy", outputs="pdf,text", pdf_a="true"))
        assert {name: file["warnings"] for name, file in job["outputs"].items()} == {"pdf": ["pages_drawn"], "text": []}
        sent = client.get(f"/jobs/{job['id']}/result", params={"output": "pdf"})
        assert sent.headers["X-Document-Warnings"] == "pages_drawn"


@pytest.mark.parametrize(("path", "results"), [("/layout-parsing", "layoutParsingResults"), ("/ocr", "ocrResults")])
def test_pages_in_paddlexs_format_have_them_too(service: Service, damaged: bytes, path: str, results: str) -> None:
    with service.client() as client:
        answer = client.post(path, json={"file": base64.b64encode(damaged).decode()})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Document-Warnings"] == "damaged_image"
    whole, part = answer.json()["result"][results]
    assert "warnings" not in whole and codes(part) == ["damaged_image"]
