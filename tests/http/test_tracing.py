"""The stages of a request as spans. tests/service/operator has how they go through Serve into a file."""

from __future__ import annotations

import time
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan

from tests.support.job_client import book, submit, wait_for_end
from tests.support.service import Service
from tests.support.spans import Trace, every_trace, trace_of_job

ROOT = "replica_handle_request"
PATIENCE_S = 30


def traced(client: httpx.Client, **request: Any) -> dict[str, list[ReadableSpan]]:
    """Send a request to /ocr; return its spans by their names. All have its id."""
    trace = Trace()
    response = client.post("/ocr", headers={**trace.headers, "X-Request-ID": trace.id}, **request)
    deadline = time.monotonic() + PATIENCE_S  # the last one ends after the response
    while ROOT not in {span.name for span in trace.spans()} and time.monotonic() < deadline:
        time.sleep(0.01)
    spans: dict[str, list[ReadableSpan]] = {}
    for span in trace.spans():
        spans.setdefault(span.name, []).append(span)
        assert span.name == ROOT or attributes(span)["request_id"] == response.headers["X-Request-ID"] == trace.id
    return spans


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_each_stage_of_a_document_is_a_span_within_that_of_its_request(service: Service) -> None:
    with service.client() as client:
        spans = traced(client, files={"file": book(2)}, data={"engine": "dummy"})
    once, (root,) = ("receive", "store"), spans.pop(ROOT)
    of_pages = ("rasterize", "analyze", "recognize")
    assert set(spans) == {*once, *of_pages, "queue", "write_output"}
    assert all(len(spans[name]) == 1 for name in once)
    for name in of_pages:
        assert sorted(attributes(span)["page"] for span in spans[name]) == [1, 2], name
    assert {attributes(span)["engine"] for name in ("queue", "recognize") for span in spans[name]} == {"dummy"}
    assert {attributes(span)["output"] for span in spans["write_output"]} == {"json", "markdown"}
    every = [span for named in spans.values() for span in named]
    assert all(0 <= seconds(span) <= seconds(root) for span in every)
    known = {span.context.span_id for span in [root, *every] if span.context}
    assert all(span.parent and span.parent.span_id in known for span in every)
    (store,) = spans["store"]
    assert any(span.parent == store.context for span in spans["write_output"]), "the stored result is written for it"


def test_a_stage_that_fails_is_a_span_with_an_error(service: Service) -> None:
    with service.client() as client:
        spans = traced(client, json={"image_url": "http://127.0.0.1:9/page.png"})
    (fetch,) = spans["fetch"]
    assert not fetch.status.is_ok and "rasterize" not in spans


def test_a_request_that_is_not_traced_leaves_no_span(service: Service) -> None:
    trace = Trace()
    off = {"traceparent": trace.headers["traceparent"][:-1] + "0"}
    with service.client() as client:
        assert client.post("/ocr", files={"file": book(1)}, headers=off).status_code == 200
    assert not trace.spans()


def test_a_job_has_a_trace_of_its_own_with_its_id(service: Service) -> None:
    with service.client() as client, every_trace():
        job = submit(client, book(2), engine="dummy")
        assert wait_for_end(client, job)["state"] == "done"
        deadline = time.monotonic() + PATIENCE_S
        while (trace := trace_of_job(job)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert trace is not None
    spans = trace.spans()
    assert {"rasterize", "queue", "recognize", "store", "write_output", "job"} <= {span.name for span in spans}
    assert {attributes(span)["request_id"] for span in spans} == {job}
