"""Job records: stored and read back, and what the owner sees of them."""

from __future__ import annotations

import json

from serve_app.document.ids import new_document_id
from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.jobs.progress import JobView
from serve_app.jobs.record import Dialect, JobRecord, JobState, Priority, Webhook, decode_record, encode_record
from serve_app.jobs.response import JobResponse, job_payload, job_response
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.request import DocumentRequest

REQUEST = DocumentRequest(engine="x", options=RecognitionOptions())


def test_a_record_is_read_back_as_it_was_stored() -> None:
    options = RecognitionOptions(languages=("rus",), parsing=ParsingOptions(use_chart_recognition=True, min_pixels=800))
    record = JobRecord(
        id=new_document_id(),
        owner="боб",
        request=DocumentRequest(engine="x", options=options, pages="1-3", password="пароль"),
        dialect=Dialect(name="other", payload={"visualize": True}),
    )
    assert decode_record(encode_record(record)) == record
    payload = job_payload(record)
    assert payload["state"] == "queued" and "request" not in payload
    assert "пароль" not in json.dumps(payload, ensure_ascii=False)
    assert "пароль" not in repr(record)


def test_the_response_has_exactly_the_documented_fields() -> None:
    request = REQUEST.model_copy(update={"outputs": (OutputFormat.PDF,)})
    record = JobRecord(id=new_document_id(), owner="me", request=request, webhook=Webhook(url="http://example.com"))
    response = job_response(JobView(record, position=2))
    assert response["outputs"] == {"pdf": {"key": None, "error": None, "warnings": [], "pages_drawn": []}}, (
        "requested outputs are listed before they are made"
    )
    assert JobResponse.model_validate(response).model_dump(mode="json") == response


def test_earlier_and_later_records_are_read() -> None:
    older = {"version": 1, "id": "20261125-0", "owner": "a", "wish": {"engine": "x", "options": {}}, "state": "running"}
    record = decode_record(json.dumps(older).encode())
    assert (record.state, record.priority, record.done) == (JobState.RUNNING, Priority.INTERACTIVE, 0)
    newer = {**older, "something": {"of": "later"}}
    assert decode_record(json.dumps(newer).encode()).id == record.id
