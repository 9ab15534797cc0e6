"""Read a document with PaddleOCR-VL Serve: short ones in one request, long ones as a job.

    export OCR=http://127.0.0.1:8081 KEY=...
    python examples/client.py scan.pdf              # Markdown, in one request
    python examples/client.py scan.pdf --job        # each page as it is done, then a searchable PDF

Needs httpx.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

RETRIES = 5
RETRY_STATUSES = (429, 503)


class Client:
    """A client of the service at `url`, with an API `key`."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=httpx.Timeout(30, read=600))

    def read(self, file: Path, output: str = "markdown") -> bytes:
        """Read a document in one request; return it in the format `output`."""
        return self._post("/ocr", file, {"output": output}).content

    def submit(self, file: Path) -> str:
        """Submit a job; return its id. The job continues even if this program ends."""
        job_id: str = self._post("/jobs", file, {}).json()["id"]
        return job_id

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each page and each change of the job until its end, as (event, data)."""
        with self._http.stream("GET", f"/jobs/{job_id}/events") as response:
            check(response)
            event = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)

    def result(self, job_id: str, output: str = "pdf") -> bytes:
        """Return the document of a job that has ended, in the format `output`."""
        return check(self._http.get(f"/jobs/{job_id}/result", params={"output": output})).content

    def _post(self, path: str, file: Path, fields: dict[str, str]) -> httpx.Response:
        """Send the file; try again while the service is busy. The Idempotency-Key makes that safe: the file is read once."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        for _ in range(RETRIES):
            with file.open("rb") as content:
                response = self._http.post(path, files={"file": (file.name, content)}, data=fields, headers=headers)
            if response.status_code not in RETRY_STATUSES:
                break
            time.sleep(float(response.headers.get("Retry-After", "1")))
        return check(response)


def check(response: httpx.Response) -> httpx.Response:
    """Return the response if it is a success; else exit with the service's message and request id."""
    if response.is_success:
        return response
    response.read()
    error = response.json()["error"]
    sys.exit(f"{response.status_code} {error['code']}: {error['message']} (request {error['request_id']})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a document with PaddleOCR-VL Serve")
    parser.add_argument("file", type=Path, help="a PDF or an image")
    parser.add_argument("--job", action="store_true", help="as a job: writes FILE-searchable.pdf")
    arguments = parser.parse_args()
    missing = [name for name in ("OCR", "KEY") if not os.environ.get(name)]
    if missing:
        sys.exit(f"Set {' and '.join(missing)} first: OCR is the service's address, KEY an API key.")
    if not arguments.file.is_file():
        sys.exit(f"There is no file {arguments.file}.")
    try:
        read(Client(os.environ["OCR"], os.environ["KEY"]), arguments.file, as_job=arguments.job)
    except (httpx.InvalidURL, httpx.HTTPError) as error:
        sys.exit(f"{os.environ['OCR']} does not respond: {error or type(error).__name__}")


def read(client: Client, file: Path, *, as_job: bool) -> None:
    """Print the document as Markdown; as a job, print its progress and write FILE-searchable.pdf."""
    if not as_job:
        sys.stdout.write(client.read(file).decode())
        return
    job_id = client.submit(file)
    for event, data in client.events(job_id):
        if event == "page":
            page = data["page"]
            outcome = f"{len(page['text'].split())} words" if page["error"] is None else page["error"]["message"]
            print(f"page {page['number']}: {outcome}", flush=True)
        elif event == "job":
            done, total = data["progress"]["done"], data["progress"]["total"]
            counted = f"{done} of {total} pages" if total is not None else "counting pages"
            print(f"job {job_id}: {data['state']}, {counted}", flush=True)
        else:
            sys.exit(f"{data['code']}: {data['message']}")
    target = file.with_name(f"{file.stem}-searchable.pdf")
    target.write_bytes(client.result(job_id))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
