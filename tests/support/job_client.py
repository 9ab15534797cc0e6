"""Jobs as a client sees them: submitted, looked up, awaited."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.support.pdfs import pages_pdf

END_S = 90
"""No job of the tests takes longer."""


def book(pages: int) -> bytes:
    return pages_pdf([b""] * pages, size=(200, 200))


def submit(client: httpx.Client, file: bytes, **fields: str) -> str:
    answer = client.post("/jobs", files={"file": ("book.pdf", file)}, data=fields)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def job_of(client: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def wait_until_done(client: httpx.Client, job_id: str, pages: int) -> dict[str, Any]:
    """Until so many pages are done, or the job is at its end."""
    deadline = time.monotonic() + END_S
    while True:
        job = job_of(client, job_id)
        if job["progress"]["done"] >= pages or job["ended"]:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.1)


def wait_for_end(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + END_S
    while not (job := job_of(client, job_id))["ended"]:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


def assert_whole(client: httpx.Client, job: dict[str, Any], pages: int) -> None:
    assert (job["state"], job["progress"]) == ("done", {"done": pages, "failed": 0, "total": pages}), job
    document = client.get(f"/jobs/{job['id']}/result").json()
    assert [page["number"] for page in document["pages"]] == list(range(1, pages + 1))
    odd = [page for page in document["pages"] if page["text"] != "Привет" or page["error"] is not None]
    assert not odd, odd
