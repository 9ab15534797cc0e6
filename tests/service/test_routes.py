"""One request to each route through Serve: its proxy, its handles, its processes. All else of them is in tests/http."""

from __future__ import annotations

import base64
import json

import httpx

from tests.support.job_client import book, submit, wait_for_end
from tests.support.pdfs import scan
from tests.support.service import Service

COVERED = {
    "GET /",
    "GET /health",
    "GET /livez",
    "GET /readyz",
    "POST /ocr",
    "POST /layout-parsing",
    "POST /restructure-pages",
    "GET /files/{key}",
    "POST /jobs",
    "GET /jobs",
    "GET /jobs/{job_id}",
    "DELETE /jobs/{job_id}",
    "POST /jobs/{job_id}/cancel",
    "GET /jobs/{job_id}/result",
    "GET /jobs/{job_id}/pages/{number}",
    "GET /jobs/{job_id}/events",
    "POST /api/v2/ocr/jobs",
    "GET /api/v2/ocr/jobs/{job_id}",
    "GET /api/v2/ocr/jobs/batch/{batch_id}",
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_every_route_has_a_test_here(service: Service) -> None:
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == COVERED


def test_the_index_and_health(service: Service) -> None:
    with service.client() as client:
        assert client.get("/").json()["service"]
        health = client.get("/health").json()
    assert [httpx.get(f"{service.url}/{probe}").status_code for probe in ("livez", "readyz")] == [200, 200]
    assert health["rasterizers"]["state"] == "available" and health["rasterizers"]["replicas"] >= 1
    assert health["status"] == "healthy" and health["engines"].keys() == {"tesseract", "dummy"}


def test_a_page_is_read_with_the_id_of_its_request(service: Service, russian_page: bytes, russian_text: str) -> None:
    with service.client() as client:
        answer = client.post("/ocr", files={"file": russian_page}, headers={"X-Request-ID": "my-id"})
    assert answer.status_code == 200 and answer.json()["text"].split() == russian_text.split()
    assert answer.headers.get_list("x-request-id") == ["my-id"]


def test_a_stream_comes_page_by_page(service: Service) -> None:
    fields = {"engine": "dummy", "output": "ndjson"}
    with service.client() as client:
        lines = client.post("/ocr", files={"file": book(5)}, data=fields).text.splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["start", *["page"] * 5, "document"]


def test_paddlexs_routes(service: Service, russian_page: bytes) -> None:
    with service.client() as client:
        answers = [
            client.post(path, json={"file": b64(scan(russian_page, russian_page))})
            for path in ("/layout-parsing", "/ocr")
        ]
        parsed, lines = (answer.json()["result"] for answer in answers)
        assert len(parsed["layoutParsingResults"]) == len(lines["ocrResults"]) == 2
        pages = [{"prunedResult": page["prunedResult"]} for page in parsed["layoutParsingResults"]]
        whole = client.post("/restructure-pages", json={"pages": pages, "concatenatePages": True})
    assert whole.json()["result"]["layoutParsingResults"][0]["prunedResult"]["page_count"] == 2


def test_a_job_from_its_submission_to_its_deletion(service: Service) -> None:
    with service.client() as client:
        job_id = submit(client, book(3), engine="dummy")
        with client.stream("GET", f"/jobs/{job_id}/events") as stream:
            events = [line for line in stream.iter_lines() if line.startswith("event: ")]
        assert events.count("event: page") == 3 and events[-1] == "event: job"
        assert wait_for_end(client, job_id)["state"] == "done"
        assert client.get("/jobs").json()["jobs"][0]["id"] == job_id
        assert client.get(f"/jobs/{job_id}/pages/2").json()["text"] == "Привет"
        assert client.get(f"/jobs/{job_id}/result", params={"output": "pdf"}).content.startswith(b"%PDF")
        assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "done", "it is too late"
        assert client.delete(f"/jobs/{job_id}").status_code == 204
        assert client.get(f"/jobs/{job_id}").status_code == 410


def test_a_job_of_paddleocrs_api_and_its_signed_files(service: Service, russian_page: bytes) -> None:
    fields = {"model": "PP-OCRv5", "optionalPayload": '{"visualize": true}', "batchId": "smoke"}
    with service.client() as client:
        job_id = client.post("/api/v2/ocr/jobs", data=fields, files={"file": russian_page}).json()["data"]["jobId"]
        while (job := client.get(f"/api/v2/ocr/jobs/{job_id}").json()["data"])["state"] in ("pending", "running"):
            pass  # each call waits a while for the end
        batch = client.get("/api/v2/ocr/jobs/batch/smoke").json()["data"]["extractResult"]
    assert job["state"] == "done" and job_id in [each["jobId"] for each in batch]
    (line,) = httpx.get(job["resultUrl"]["jsonUrl"]).text.splitlines()
    picture = json.loads(line)["result"]["ocrResults"][0]["ocrImage"]
    assert httpx.get(picture).content.startswith(b"\xff\xd8\xff"), (
        "a link to S3; one to /files is in test_make_serve.py"
    )
