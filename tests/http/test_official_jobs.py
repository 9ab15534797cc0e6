"""PaddleOCR's own clients of its job API, as they come from PyPI: only the base URL is ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from rapidfuzz import fuzz

from tests.support.http_server import http_server
from tests.support.pdfs import scan
from tests.support.service import KEY, Service

CLIENTS = Path(__file__).parents[2] / ".clients/bin"

SDK = """
import json, sys
from paddleocr import PaddleOCRClient, PaddleOCRVLOptions, OCROptions
address, key, pdf, png, folder = sys.argv[1:]
with PaddleOCRClient(token=key, base_url=address) as client:
    lines = client.ocr(file_path=png, options=OCROptions(visualize=True))
    document = client.parse_document(file_path=pdf, page_ranges="2-3", options=PaddleOCRVLOptions(visualize=True, restructure_pages=True))
    jobs = [client.submit_ocr(file_path=png, batch_id="счета/1", model="PP-OCRv5") for _ in range(2)]
    for job in jobs:
        client.wait_ocr_result(job)
    batch = client.get_batch_status("счета/1")
    status = client.get_status(jobs[0].job_id)
    saved = client.save_ocr_result_resources(lines, folder)
print(json.dumps({
    "lines": [page.pruned_result["rec_texts"] for page in lines.pages], "picture": lines.pages[0].ocr_image_url,
    "documents": [page.markdown_text for page in document.pages], "info": document.data_info,
    "pictures": [page.output_images["layout_det_res"] for page in document.pages],
    "batch": [[job.job_id, job.state] for job in batch.jobs], "jobs": [job.job_id for job in jobs],
    "progress": [status.progress.extracted_pages, status.progress.total_pages], "saved": [str(path) for path in saved],
}))
"""


def run(*command: str, fails: bool = False) -> str:
    done = subprocess.run([str(CLIENTS / command[0]), *command[1:]], capture_output=True, text=True, timeout=150)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + (done.stderr if fails else "")


@pytest.fixture
def files(tmp_path: Path, russian_page: bytes, english_page: bytes) -> tuple[str, str]:
    (tmp_path / "книга.pdf").write_bytes(scan(english_page, russian_page, english_page))
    (tmp_path / "счёт.png").write_bytes(russian_page)
    return str(tmp_path / "книга.pdf"), str(tmp_path / "счёт.png")


def test_the_sdk_gets_lines_documents_batches_and_pictures(
    service: Service, files: tuple[str, str], tmp_path: Path, russian_text: str, english_text: str
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    told = json.loads(run("python", "-c", SDK, service.url, KEY, *files, str(saved)).splitlines()[-1])
    assert " ".join(told["lines"][0]).split() == russian_text.split()
    russian, english = told["documents"]
    assert fuzz.ratio(russian.replace("\\", "").split(), russian_text.split()) > 97
    assert fuzz.ratio(english.replace("\\", "").split(), english_text.split()) > 97
    assert told["info"]["numPages"] == 2 and told["progress"] == [1, 1]
    assert told["batch"] == [[job, "done"] for job in sorted(told["jobs"])]
    for url in (told["picture"], *told["pictures"]):
        assert url.startswith(f"{service.url}/files/") and httpx.get(url).content[:3] == b"\xff\xd8\xff"
    assert told["saved"] and all(Path(path).read_bytes()[:3] == b"\xff\xd8\xff" for path in told["saved"])


LANGCHAIN = """
import json, sys
from langchain_paddleocr import PaddleOCRVLLoader
from pydantic import SecretStr
address, key, *files = sys.argv[1:]
loader = PaddleOCRVLLoader(files, access_token=SecretStr(key), base_url=address, restructure_pages=True)
print(json.dumps([document.page_content for document in loader.load()]))
"""


def test_langchain_loads_documents(
    service: Service, files: tuple[str, str], russian_text: str, english_text: str
) -> None:
    book, page = json.loads(run("python", "-c", LANGCHAIN, service.url, KEY, *files).splitlines()[-1])
    assert fuzz.ratio(page.replace("\\", "").split(), russian_text.split()) > 97
    whole = f"{english_text} {russian_text} {english_text}"
    assert fuzz.ratio(book.replace("\\", "").split(), whole.split()) > 97


JAVASCRIPT = """
import { Model, PaddleOCRClient } from "@paddleocr/api-sdk";
const [baseUrl, token, pdf, png] = process.argv.slice(2);
const client = new PaddleOCRClient({ baseUrl, token });
const lines = await client.ocr({ model: Model.PPOCRv5, filePath: png });
const document = await client.parseDocument({ filePath: pdf, pageRanges: "2" });
console.log(JSON.stringify([lines.pages[0].prunedResult.rec_texts.join(" "), document.pages.map((page) => page.markdownText)]));
"""


def test_the_javascript_sdk_gets_lines_and_documents(
    service: Service, files: tuple[str, str], russian_text: str
) -> None:
    script = CLIENTS.parent / "sdk-test.mjs"  # beside what it imports
    script.write_text(JAVASCRIPT)
    command = ["node", str(script), service.url, KEY, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    lines, (page,) = json.loads(done.stdout)
    assert lines.split() == russian_text.split()
    assert fuzz.ratio(page.replace("\\", "").split(), russian_text.split()) > 97


def test_the_command_line_reads_a_document_and_hears_of_a_wrong_key(
    service: Service, files: tuple[str, str], tmp_path: Path, russian_text: str
) -> None:
    command = ["paddleocr", "api", "--model_type", "doc_parsing", "--base_url", service.url, "--file_path", files[1]]
    run(*command, "--token", KEY, "--output", str(tmp_path / "result.json"))
    assert "Счёт на оплату" in json.dumps(json.loads((tmp_path / "result.json").read_text()), ensure_ascii=False)
    assert "Authentication failed: A valid API key is required" in run(*command, "--token", "wrong", fails=True)


def post(service: Service, **body: Any) -> httpx.Response:
    with service.client() as client:
        return client.post("/api/v2/ocr/jobs", **body)


def test_a_url_is_read_and_what_cannot_be_read_has_failed(service: Service, russian_page: bytes) -> None:
    with http_server({"/page": russian_page, "/text": b"hello world"}) as server, service.client() as client:
        ends = {}
        for path in ("page", "text"):
            asked = {"model": "PP-OCRv6", "fileUrl": f"{server}/{path}", "optionalPayload": {"returnWordBox": True}}
            told = post(service, json=asked).json()
            assert (told["code"], told["msg"]) == (0, "Success")
            while (data := client.get(f"/api/v2/ocr/jobs/{told['data']['jobId']}").json()["data"])["state"] in (
                "pending",
                "running",
            ):
                pass  # the call is held for a while
            ends[path] = data
    assert ends["page"]["state"] == "done" and ends["page"]["extractProgress"]["extractedPages"] == 1
    result = httpx.get(ends["page"]["resultUrl"]["jsonUrl"])
    assert result.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    (line,) = result.text.splitlines()
    assert json.loads(line)["result"]["ocrResults"][0]["prunedResult"]["text_word"]
    assert ends["text"]["state"] == "failed" and "not supported" in ends["text"]["errorMsg"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"json": {"model": "GPT", "fileUrl": "http://example.com/x"}}, 400, "model: is none of PP-OCRv5"),
        ({"json": {"model": "PP-OCRv5"}}, 400, "Send the document as one of: file, fileUrl."),
        ({"json": {"fileUrl": "http://example.com/x"}}, 400, "model: is missing"),
        ({"json": {"model": "PP-OCRv5", "fileUrl": "ftp://example.com/x"}}, 400, "Only http and https"),
        ({"json": {"model": "PP-OCRv5", "fileUrl": "http://example.com/x", "pageRanges": "3-1"}}, 400, "pageRanges: "),
        (
            {"data": {"model": "PP-OCRv5", "optionalPayload": "{"}, "files": {"file": b"x"}},
            *(400, "optionalPayload: is not a JSON object"),
        ),
        (
            {"data": {"model": "PaddleOCR-VL", "optionalPayload": '{"topP": 7}'}, "files": {"file": b"x"}},
            *(400, "topP: must be at most 1"),
        ),
    ],
)
def test_errors_have_a_code_and_a_message(service: Service, body: dict[str, Any], status: int, message: str) -> None:
    answer = post(service, **body)
    told = answer.json()
    assert answer.status_code == status and told["code"] != 0 and told["msg"].startswith(message), told


def test_what_is_not_known_of_a_payload_is_not_kept(service: Service, russian_page: bytes) -> None:
    deep = '{"visualize": false, "x": ' + "[" * 230 + "]" * 230 + ', "y": "\\ud800"}'
    fields, files = {"model": "PP-OCRv5", "optionalPayload": deep}, {"file": russian_page}
    job_id = post(service, data=fields, files=files).json()["data"]["jobId"]
    with service.client() as client:
        assert client.get(f"/api/v2/ocr/jobs/{job_id}").json()["data"]["state"] in ("pending", "running", "done")
        assert client.delete(f"/jobs/{job_id}").status_code == 204
    # A name that is not valid Unicode, within an object that is known.
    nested = {"model": "PaddleOCR-VL", "optionalPayload": '{"vlmExtraArgs": {"\\ud800": 1, "x": 1}}'}
    told = post(service, data=nested, files=files)
    assert told.status_code == 200, told.text
    fields["optionalPayload"] = '{"x": "' + "a" * 100_000 + '"}'
    assert post(service, data=fields, files=files).json()["msg"].startswith("optionalPayload: may have at most")
    assert post(service, data={"model": "PP-OCRv5"}, files={"file": b""}).status_code == 400


def test_a_job_of_another_key_is_not_there(service: Service, russian_page: bytes) -> None:
    told = post(service, data={"model": "PP-OCRv5", "optionalPayload": "{}"}, files={"file": russian_page}).json()
    other = httpx.get(f"{service.url}/api/v2/ocr/jobs/{told['data']['jobId']}", headers={"X-API-Key": "second-key"})
    assert (other.status_code, other.json()["code"]) == (404, 404)
    batch = httpx.get(f"{service.url}/api/v2/ocr/jobs/batch/none", headers={"X-API-Key": "second-key"})
    assert batch.json()["data"] == {"batchId": "none", "extractResult": []}
