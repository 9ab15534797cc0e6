"""One line for each request and each job, at its end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from tests.support.job_client import book, submit, wait_for_end
from tests.support.service import KEY, Service


@pytest.fixture
def lines() -> Iterator[Callable[[str], list[str]]]:
    """What the service logs at the level INFO, by the text with which it begins. Waits for a line that is about to come."""
    records: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    def beginning(text: str) -> list[str]:
        deadline = time.monotonic() + 10
        while not (found := [line for line in records if line.startswith(text)]) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    keeper, logger = Keeper(logging.INFO), logging.getLogger("ray.serve")
    level = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    yield beginning
    logger.setLevel(level)
    logger.removeHandler(keeper)
    assert not [line for line in records if KEY in line]


def test_a_request_has_one_line_and_probes_have_none(
    service: Service, russian_page: bytes, lines: Callable[[str], list[str]]
) -> None:
    with service.client() as client:
        document = client.post("/ocr", files={"file": russian_page}).json()["id"]
        for probe in ("/health", "/livez", "/readyz", "/"):
            assert client.get(probe).status_code == 200
        refused = client.get("/nothing", params={"signature": "s3cret"})
    assert refused.status_code == 404
    (line,) = lines("POST /ocr 200: ")
    facts = dict(fact.split("=") for fact in line.partition(": ")[2].split())
    assert facts.items() >= {"key": "alice", "document": document, "pages": "1", "engine": "tesseract"}.items()
    assert facts.items() >= {"failed": "0", "status": "done", "document_bytes": str(len(russian_page))}.items()
    assert int(facts["bytes_in"]) > len(russian_page) and int(facts["bytes_out"]) > 100 and int(facts["ms"]) > 0
    assert re.search(r"\brecognize:[1-9]\d*\b", facts["stages_ms"])
    assert facts["stages_ms"].count("write_output:") == 1
    (line,) = lines("GET /nothing 404: ")
    assert "error=not_found" in line and "s3cret" not in line
    assert [line for line in lines("") if "200" in line or document in line] == lines("POST /ocr 200: ")


def test_a_client_cannot_forge_a_line(service: Service, lines: Callable[[str], list[str]]) -> None:
    """By a path, a file's name, or a field: not a line, and not a fact in one."""
    forged = "x\nPOST /ocr 200: key=root"
    with service.client() as client:
        assert client.get("/" + quote(forged)).status_code == 404
        assert client.get("/ key=root").status_code == 404
        assert client.post("/ocr", files={"file": (forged, b"no image")}, data={"language": forged}).status_code >= 400
    (line,) = lines("GET '/x")
    assert r"\nPOST /ocr 200: key=root' 404: key=alice error=not_found" in line
    assert lines("GET '/ key=root' 404: key=alice ")
    assert lines("POST /ocr 4")
    assert not [each for each in lines("") if "\n" in each or "POST /ocr 200" in each.replace(line, "")]


def test_a_job_that_is_cancelled_or_deleted_has_its_line(service: Service, lines: Callable[[str], list[str]]) -> None:
    with service.client() as client:
        cancelled, deleted = (submit(client, book(400), engine="dummy") for _ in range(2))
        assert client.post(f"/jobs/{cancelled}/cancel").status_code == 200
        assert client.delete(f"/jobs/{deleted}").status_code == 204
    assert len(lines(f"job {cancelled} cancelled: key=alice ")) == 1
    assert len(lines(f"job {deleted} deleted: key=alice ")) == 1


def test_a_job_has_one_line_at_its_end_and_none_for_each_page_or_look(
    service: Service, lines: Callable[[str], list[str]]
) -> None:
    with service.client() as client:
        job = submit(client, book(3), engine="dummy")
        assert wait_for_end(client, job)["state"] == "done"
    (submitted,) = lines("POST /jobs 202: ")
    assert f"job={job}" in submitted
    (line,) = lines(f"job {job} done: ")
    assert all(fact in line for fact in ("key=alice", "done=3", "failed=0", "total=3", "engine=dummy", "stages_ms="))
    assert [each for each in lines("") if job in each] == [submitted, line]
