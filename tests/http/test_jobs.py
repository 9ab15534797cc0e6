"""Jobs over HTTP: submitted, watched, fetched in any form, cancelled, deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from rapidfuzz import fuzz

from tests.support.http_server import http_server
from tests.support.job_client import assert_whole, book, job_of, submit, wait_for_end, wait_until_done
from tests.support.pdfs import scan
from tests.support.service import KEY, Service
from tests.support.webhook_receiver import WebhookReceiver

WEBHOOK_SECRET = "whsec_d2ViaG9vayBzZWNyZXQ="


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs") / "output"


@pytest.fixture(scope="module")
def slow_of_module(deployed_for_module: Callable[..., Service], output: Path) -> Service:
    """A page takes it a fifth of a second, and it does one job at a time."""
    settings = {
        "engines": [{"name": "dummy", "replicas": 1, "page_s": 0.2, "max_batch": 1, "text": "Привет"}],
        "store": {"kind": "folder", "path": str(output)},
        "jobs": {"in_flight": 1, "waiting": 3, "keep_s": 600},
        "allowed_private_networks": ["127.0.0.2/32"],
    }
    service = deployed_for_module(settings, secrets={"OCR_WEBHOOK_SECRET": WEBHOOK_SECRET})
    service.wait_until_engines_are_ready()
    return service


@pytest.fixture
def slow(slow_of_module: Service) -> Service:
    """The slow service when the jobs of the test before have ended, and its ingress knows."""
    deadline = time.monotonic() + 60
    with slow_of_module.client() as client:
        while (jobs := client.get("/health").json()["jobs"])["running"] or jobs["waiting"]:
            assert time.monotonic() < deadline, jobs
            time.sleep(0.1)
    return slow_of_module


def files_of(output: Path, job_id: str) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if job_id in str(path) and path.is_file())


def test_a_scan_is_read_as_a_job_and_fetched_in_every_form(
    service: Service, russian_page: bytes, russian_text: str
) -> None:
    with service.client() as client:
        answer = client.post("/jobs", files={"file": ("счёт.pdf", scan(russian_page))}, data={"priority": "bulk"})
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        job_id = answer.json()["id"]
        assert answer.headers["location"] == f"{service.url}/jobs/{job_id}"
        job = wait_for_end(client, job_id)
        assert (job["state"], job["priority"], job["file_name"]) == ("done", "bulk", "счёт.pdf")
        assert fuzz.ratio(client.get(f"/jobs/{job_id}/pages/1").json()["text"].split(), russian_text.split()) > 97
        assert client.get(f"/jobs/{job_id}/pages/2").status_code == 404
        begins = {
            "json": b'{"id"',
            "html": b"<!",
            "pdf": b"%PDF",
            "docx": b"PK",
            "zip": b"PK",
        }
        for output, begin in begins.items():
            result = client.get(f"/jobs/{job_id}/result", params={"output": output})
            assert result.status_code == 200 and result.content.startswith(begin), (output, result.text[:200])
            assert result.headers["x-document-id"] == job_id
        for output in ("text", "markdown"):
            result = client.get(f"/jobs/{job_id}/result", params={"output": output})
            assert result.headers["content-type"].startswith(
                {"text": "text/plain", "markdown": "text/markdown"}[output]
            )
            words = result.text.replace("\\", "").split()
            assert fuzz.ratio(words, russian_text.split()) > 97, output
        assert client.get(f"/jobs/{job_id}/result", params={"output": "events"}).status_code == 422
        listed = client.get("/jobs", params={"limit": 1}).json()
        assert [each["id"] for each in listed["jobs"]] == [job_id]
        for path, field in (
            (f"/jobs/{job_id}/result?output=bogus", "output"),
            (f"/jobs/{job_id}/result?ouput=pdf", "ouput"),
            (f"/jobs/{job_id}/pages/abc", "number"),
            (f"/jobs/{job_id}/pages/{'9' * 300}", "number"),
            ("/jobs?limit=0", "limit"),
            ("/jobs?before=zzz", "before"),
        ):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_field"), path
            assert [each["field"] for each in refused.json()["error"]["fields"]] == [field]
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/result", f"/jobs/{job_id}/pages/1", f"/jobs/{job_id}/events"):
        other = httpx.get(f"{service.url}{path}", headers={"X-API-Key": "second-key"})
        assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found"), path
    assert httpx.get(f"{service.url}/jobs", headers={"X-API-Key": "second-key"}).json()["jobs"] == []


def events_of(client: httpx.Client, job_id: str, **params: str) -> list[tuple[str, dict[str, Any]]]:
    with client.stream("GET", f"/jobs/{job_id}/events", params=params) as answer:
        lines = list(answer.iter_lines())
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(kinds, data, strict=True))


def test_events_tell_of_each_page(slow: Service) -> None:
    with slow.client() as client:
        job_id = submit(client, book(5))
        events = events_of(client, job_id)
        late = events_of(client, job_id)
        without_pages = events_of(client, job_id, pages="false")
    told = [data for kind, data in events if kind == "job"]
    pages = [data["page"] for kind, data in events if kind == "page"]
    assert sorted(page["number"] for page in pages) == [1, 2, 3, 4, 5]
    assert all(page["text"] == "Привет" for page in pages)
    assert [kind for kind, _ in late] == ["page"] * 5 + ["job"], "who comes late hears of all"
    assert [kind for kind, _ in without_pages] == ["job"]
    first = next(at for at, (kind, _) in enumerate(events) if kind == "page")
    assert ("job", "running") in [(kind, data.get("state")) for kind, data in events[first:-1]], "as they are done"
    done = [each["progress"]["done"] for each in told]
    assert done == sorted(done) and set(done) >= {0, 1, 2, 3, 4, 5}
    assert told[-1]["state"] == "done" and told[0]["state"] in ("queued", "running")
    assert any(each["left_s"] for each in told if each["state"] == "running"), "the pace is known after some pages"


def test_the_same_request_twice_is_one_job(slow: Service) -> None:
    def ask(pages: int, key: str, who: str = KEY) -> httpx.Response:
        headers = {"X-API-Key": who, "Idempotency-Key": key}
        return httpx.post(f"{slow.url}/jobs", headers=headers, files={"file": book(pages)}, timeout=30)

    with ThreadPoolExecutor() as clients:
        answers = list(clients.map(lambda _: ask(2, "счёт-1".encode().hex()), range(2)))
    key = "счёт-1".encode().hex()
    answers.append(ask(2, key))
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
    (job_id,) = {answer.json()["id"] for answer in answers}
    other = ask(3, key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    with slow.client() as client:
        assert_whole(client, wait_for_end(client, job_id), 2)
        again = ask(2, key)
        assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, job_id, "done")
        assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert ask(2, key).status_code == 410
    assert ask(1, "x" * 256).status_code == 422
    elsewhere = ask(2, key, "second-key")
    assert elsewhere.status_code == 202 and elsewhere.json()["id"] != job_id


def test_the_end_of_a_job_is_told_by_a_signed_post_that_is_tried_again(slow: Service) -> None:
    with WebhookReceiver() as receiver, slow.client() as client:
        job_id = submit(client, book(1), webhook=receiver.url)
        deadline = time.monotonic() + 30
        while (job := job_of(client, job_id))["webhook"]["state"] == "pending":
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        private = client.post("/jobs", files={"file": book(1)}, data={"webhook": "http://127.0.0.1:9/x"})
        assert (private.status_code, private.json()["error"]["code"]) == (403, "url_forbidden")
        assert [problem["field"] for problem in private.json()["error"]["fields"]] == ["webhook"]
    assert (job["webhook"]["state"], job["webhook"]["attempts"], job["webhook"]["last_answer"]) == (
        "delivered",
        2,
        "204",
    )
    ended_at = datetime.fromisoformat(job["ended"]).timestamp()
    assert receiver.heard[0].at - ended_at < 2, "at the job's end, and not when the store is looked through"
    for heard in receiver.heard:
        payload = standardwebhooks.Webhook(WEBHOOK_SECRET).verify(heard.body, heard.headers)
        assert (payload["type"], payload["job"]["id"], payload["job"]["state"]) == ("job.ended", job_id, "done")
        assert heard.headers["webhook-id"] == job_id


def test_who_watches_a_job_that_is_deleted_is_told_so(slow: Service) -> None:
    with slow.client() as client, ThreadPoolExecutor() as watchers:
        job_id = submit(client, book(60))
        watching = watchers.submit(events_of, client, job_id)
        wait_until_done(client, job_id, 2)
        assert client.delete(f"/jobs/{job_id}").status_code == 204
        kind, data = watching.result(10)[-1]
    assert (kind, data["code"]) == ("error", "job_gone")


def test_watchers_leave_room_for_others(slow: Service) -> None:
    with slow.client() as client, ExitStack() as streams:
        job_id = submit(client, book(60))
        statuses = []
        for _ in range(20):
            watcher = streams.enter_context(slow.client())
            statuses.append(streams.enter_context(watcher.stream("GET", f"/jobs/{job_id}/events")).status_code)
        assert statuses.count(200) == 16 and set(statuses[16:]) == {503}
        other = httpx.get(f"{slow.url}/jobs/{job_id}/events", headers={"X-API-Key": "second-key"})
        assert other.status_code == 404, "what is another one's is not told by a full house either"
        assert client.get(f"/jobs/{job_id}").json()["state"] == "running"
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 200


def test_forms_that_were_wished_for_are_kept_beside_the_result(
    service: Service, output_dir: Path, russian_page: bytes
) -> None:
    with service.client() as client:
        answer = client.post("/jobs", files={"file": scan(russian_page)}, data={"outputs": "pdf, docx"})
        job = wait_for_end(client, answer.json()["id"])
        kept = {form: output_dir / told["key"] for form, told in job["outputs"].items()}
        assert {form: path.name for form, path in kept.items()} == {"pdf": "result.pdf", "docx": "result.docx"}
        for form, path in kept.items():
            sent = client.get(f"/jobs/{job['id']}/result", params={"output": form})
            assert sent.content == path.read_bytes() and sent.headers["x-document-id"] == job["id"]
        kept["pdf"].unlink()
        again = client.get(f"/jobs/{job['id']}/result", params={"output": "pdf"})
        assert again.status_code == 200 and again.content.startswith(b"%PDF"), "it is made again"


def test_a_webhook_without_a_secret_is_refused(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/jobs", files={"file": book(1)}, data={"webhook": "http://example.com/"})
    assert answer.status_code == 422 and "OCR_WEBHOOK_SECRET" in answer.json()["error"]["message"]
    assert [problem["field"] for problem in answer.json()["error"]["fields"]] == ["webhook"]


def test_while_the_store_is_away_no_job_is_cancelled_and_no_key_claimed(
    deployed: Callable[..., Service], tmp_path: Path
) -> None:
    service = deployed({"engines": [{"name": "dummy", "page_s": 0.2, "max_batch": 1}]})
    service.wait_until_engines_are_ready()
    output, away = tmp_path / "output", tmp_path / "away"
    with service.client() as client:
        job_id = submit(client, book(100))
        wait_until_done(client, job_id, 1)
        output.rename(away)
        output.write_text("in the way")
        for refused in (
            client.post(f"/jobs/{job_id}/cancel"),
            client.post("/ocr", files={"file": book(1)}, headers={"Idempotency-Key": "key"}),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
            assert refused.json()["error"]["message"] == "The store is not available; try again shortly."
            assert int(refused.headers["Retry-After"]) > 0
        output.unlink()
        away.rename(output)
        assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"


def test_jobs_wait_in_line_and_a_full_line_is_503(slow: Service) -> None:
    with slow.client() as client:
        first, second, third = (submit(client, book(8)) for _ in range(3))
        early = client.get(f"/jobs/{first}/result")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "job_not_done")
        assert [job_of(client, each)["position"] for each in (first, second, third)] == [None, 1, 2]
        full = client.post("/jobs", files={"file": book(1)})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full") and full.headers["retry-after"]
        for each in (second, third):
            assert client.post(f"/jobs/{each}/cancel").json()["state"] == "cancelled"
        assert_whole(client, wait_for_end(client, first), 8)


def test_a_job_that_is_cancelled_stops_using_the_engine_and_keeps_its_pages(slow: Service, output: Path) -> None:
    with slow.client() as client:
        job_id = submit(client, book(60))
        wait_until_done(client, job_id, 3)
        asked = time.monotonic()
        assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
        after = submit(client, book(1))
        assert_whole(client, wait_for_end(client, after), 1)
        assert time.monotonic() - asked < 6, "the engine is free at once"
        done = job_of(client, job_id)["progress"]["done"]
        time.sleep(1)
        assert job_of(client, job_id)["progress"]["done"] == done < 60
        assert client.get(f"/jobs/{job_id}/pages/1").json()["text"] == "Привет"
        refused = client.get(f"/jobs/{job_id}/result")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_has_no_result")


def test_a_job_that_is_cancelled_and_deleted_at_once_stays_deleted(slow: Service) -> None:
    with slow.client() as client, ThreadPoolExecutor() as clients:
        for _ in range(8):
            job_id = submit(client, book(10))
            wait_until_done(client, job_id, 1)
            ends = [
                clients.submit(client.post, f"/jobs/{job_id}/cancel"),
                clients.submit(client.delete, f"/jobs/{job_id}"),
            ]
            assert {end.result().status_code for end in ends} <= {200, 204, 410}
            assert client.get(f"/jobs/{job_id}").status_code == 410


def test_an_interactive_job_does_not_wait_for_a_bulk_one(slow: Service) -> None:
    with slow.client() as client:
        bulk = submit(client, book(40), priority="bulk")
        wait_until_done(client, bulk, 1)
        assert_whole(client, wait_for_end(client, submit(client, book(1))), 1)
        assert job_of(client, bulk)["state"] == "running"
        assert client.post(f"/jobs/{bulk}/cancel").status_code == 200


def test_a_job_that_is_deleted_leaves_nothing_and_is_410(slow: Service, output: Path) -> None:
    with slow.client() as client:
        running, done = submit(client, book(60)), None
        wait_until_done(client, running, 2)
        assert client.delete(f"/jobs/{running}").status_code == 204
        done = submit(client, book(1))
        wait_for_end(client, done)
        assert client.delete(f"/jobs/{done}").status_code == 204
        for job_id in (running, done):
            for method, path in (
                ("GET", ""),
                ("GET", "/result"),
                ("GET", "/events"),
                ("DELETE", ""),
                ("POST", "/cancel"),
            ):
                gone = client.request(method, f"/jobs/{job_id}{path}")
                assert (gone.status_code, gone.json()["error"]["code"]) == (410, "job_gone")
            kept = [name for name in files_of(output, job_id) if not name.startswith("jobs/expires/")]
            assert [Path(name).name for name in kept] == ["job.json"], kept
        assert not {running, done} & {each["id"] for each in client.get("/jobs").json()["jobs"]}


def test_results_are_deleted_when_their_time_is_over(deployed: Callable[..., Service], tmp_path: Path) -> None:
    service = deployed({"engines": [{"name": "dummy", "replicas": 1}], "jobs": {"keep_s": 1}})
    service.wait_until_engines_are_ready()

    def kept() -> list[str]:
        return [name for name in files_of(tmp_path / "output", job_id) if not name.startswith("jobs/expires/")]

    with service.client() as client:
        job_id = submit(client, book(1))
        deadline = time.monotonic() + 40
        while (answer := client.get(f"/jobs/{job_id}")).status_code == 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "job_gone")
        while [Path(name).name for name in kept()] != ["job.json"]:
            assert time.monotonic() < deadline, kept()
            time.sleep(0.1)
        while client.get(f"/jobs/{job_id}").status_code == 410:
            assert time.monotonic() < deadline, "the record goes as well, later"
            time.sleep(0.5)
    assert all(name.startswith("jobs/expires/") for name in files_of(tmp_path / "output", job_id))


def test_a_url_is_fetched_once_and_one_that_fails_is_the_jobs_error(service: Service, russian_page: bytes) -> None:
    with http_server({"/page": russian_page}) as server, service.client() as client:
        asked = [{"image_url": f"{server}/page"}, {"image_url": f"{server}/none"}]
        ends = [wait_for_end(client, client.post("/jobs", json=each).json()["id"]) for each in asked]
    assert [job["state"] for job in ends] == ["done", "failed"]
    assert ends[1]["error"]["code"] == "url_fetch_failed"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"json": {}}, 422, "invalid_field"),
        ({"json": {"image_url": "ftp://example.com/x"}}, 400, "scheme_not_allowed"),
        ({"json": {"image_url": "http://127.0.0.1:9/x"}}, 403, "url_forbidden"),
        ({"json": {"image_url": "http://no-such-name.invalid/x"}}, 422, "url_fetch_failed"),
        ({"json": {"image_base64": "@"}}, 400, "invalid_base64"),
        ({"files": {"file": b"a text"}}, 415, "unsupported_media_type"),
        ({"json": {"image_base64": "QQ==", "priority": "urgent"}}, 422, "invalid_field"),
        ({"json": {"image_base64": "QQ==", "engine": "none"}}, 422, "invalid_field"),
        ({"json": {"image_base64": "QQ==", "output": "pdf"}}, 422, "invalid_field"),
        ({"json": {"image_base64": "QQ==", "outputs": ["events"]}}, 422, "invalid_field"),
        ({"json": {"image_base64": "QQ==", "outputs": "pdf,gif"}}, 422, "invalid_field"),
        ({"files": {"file": b""}}, 422, "empty_document"),
    ],
)
def test_what_is_wrong_is_said_before_there_is_a_job(
    service: Service, body: dict[str, Any], status: int, code: str
) -> None:
    with service.client() as client:
        before = client.get("/jobs").json()["jobs"]
        answer = client.post("/jobs", **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert client.get("/jobs").json()["jobs"] == before


def test_a_document_that_cannot_be_read_is_a_failed_job(service: Service) -> None:
    with service.client() as client:
        job = wait_for_end(client, submit(client, b"%PDF-1.7 nothing"))
        assert (job["state"], job["error"]["code"]) == ("failed", "corrupt_document")
        for path in ("0" * 8 + "-" + "0" * 24, "x", "..%2f..%2fjobs"):
            assert client.get(f"/jobs/{path}").status_code == 404, path
