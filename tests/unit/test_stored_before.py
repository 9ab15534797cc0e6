"""Records that an earlier version stored (in `stored/`, as they were written) are still read."""

from __future__ import annotations

from pathlib import Path

from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.jobs.record import JobState, Priority, as_stored, record_of
from serve_app.outputs.formats import OutputFormat
from serve_app.pipeline.request import DocumentRequest

STORED = Path(__file__).parent / "stored"


def test_a_job_record_with_its_request_as_wish_is_read() -> None:
    record = record_of((STORED / "job.json").read_bytes())
    assert (record.state, record.priority, record.owner) == (JobState.RUNNING, Priority.BULK, "анна")
    assert (record.page_count, record.total, record.done) == (9, 4, 1)
    parsing = ParsingOptions(use_chart_recognition=True, layout_threshold={"table": 0.5})
    assert record.request == DocumentRequest(
        engine="tesseract",
        options=RecognitionOptions(languages=("rus", "eng"), parsing=parsing, overlay=True),
        dpi=200,
        password="пароль",
        pages="1-3, 7",
        max_pages=9,
        text_layer=True,
        restructure=False,
        outputs=(OutputFormat.PDF, OutputFormat.ZIP),
    )
    assert record.request.page_numbers(9) == [1, 2, 3, 7]
    assert record_of(as_stored(record)) == record


def test_a_record_of_an_official_job_is_read() -> None:
    record = record_of((STORED / "official-job.json").read_bytes())
    parsing = ParsingOptions(use_chart_recognition=True, prettify_markdown=True)
    assert record.request == DocumentRequest(
        engine="paddleocr-vl",
        options=RecognitionOptions(parsing=parsing),
        pdf_dpi=144,
        pages="2-",
        keep_native=True,
    )
    assert record.paddlex is not None and record.paddlex.layout.restructure_pages
    assert record_of(as_stored(record)) == record
