"""Records that an earlier version stored (in `stored/`, as they were written) are still read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from serve_app.document import EngineInfo, Figure, PageContent, SourceFile
from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.jobs.job_store import JobStore
from serve_app.jobs.record import JobState, Priority, decode_record, encode_record
from serve_app.outputs.formats import OutputFormat
from serve_app.paddlex import DIALECT
from serve_app.paddlex.job import PaddlexJob
from serve_app.pipeline.page_cache import PageCache
from serve_app.pipeline.request import DocumentRequest
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor
from tests.support.caches import no_cache

STORED = Path(__file__).parent / "stored"
ENGINE = EngineInfo(name="tesseract", version="5.5.1")
OPTIONS = RecognitionOptions(
    languages=("rus", "eng"),
    parsing=ParsingOptions(use_chart_recognition=True, layout_threshold={"table": 0.5}),
    overlay=True,
)
JOB = "20261125-2405640a1b2c3d4e5f60718f"
FIGURE = "imgs/img_in_image_box_10_60_90_120.jpg"
JPEG = b"\xff\xd8\xff\xe0 a picture \xff\xd9"
CACHED = "80e29e9a7810e7454c3d14c0f97cd121/{digest}/9f8f4debc265aafd7988993e1165b60f-000002.json"
"""The key under which `cached-page.json` was stored: below the day, by owner, document, and engine with options."""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(FolderStoreSettings(path=str(tmp_path)))


def test_a_job_record_with_its_request_as_wish_is_read() -> None:
    record = decode_record((STORED / "job.json").read_bytes())
    assert (record.state, record.priority, record.owner) == (JobState.RUNNING, Priority.BULK, "анна")
    assert (record.page_count, record.total, record.done) == (9, 4, 1)
    assert record.request == DocumentRequest(
        engine="tesseract",
        options=OPTIONS,
        dpi=200,
        password="пароль",
        pages="1-3, 7",
        max_pages=9,
        text_layer=True,
        restructure=False,
        outputs=(OutputFormat.PDF, OutputFormat.ZIP),
    )
    assert record.request.page_numbers(9) == [1, 2, 3, 7]
    assert decode_record(encode_record(record)) == record


def test_a_record_of_an_official_job_is_read() -> None:
    record = decode_record((STORED / "official-job.json").read_bytes())
    parsing = ParsingOptions(use_chart_recognition=True, prettify_markdown=True)
    assert record.request == DocumentRequest(
        engine="paddleocr-vl",
        options=RecognitionOptions(parsing=parsing),
        pdf_dpi=144,
        pages="2-",
        keep_native=True,
    )
    assert record.dialect is not None and (record.dialect.name, record.batch_id) == (DIALECT, "пачка")
    job = PaddlexJob.model_validate(record.dialect.payload)
    assert (job.model, job.address) == ("PaddleOCR-VL-1.6", "https://ocr.example.com/")
    assert job.layout.restructure_pages and not job.reads_lines
    assert decode_record(encode_record(record)) == record


def check(content: PageContent, figure: str) -> None:
    heading, table, picture = content.page.blocks
    assert (content.page.number, content.page.dpi, content.page.rotation) == (2, 144, 90)
    assert [word.text for word in heading.words] == ["Глава", "1"] and heading.markdown_span == (0, 10)
    assert table.content is not None and table.content.startswith("<table>") and table.text == "a\tб"
    assert picture.figure == figure and picture.polygon is not None and picture.polygon[2] == (90.0, 120.5)
    assert content.figures == (Figure(figure, JPEG),)
    assert content.native is not None
    assert content.native.result["parsing_res_list"][1]["block_bbox"] == [10, 60, 90, 120]
    assert content.native.markdown.endswith("</div>\n ")
    assert content.native.raw_blocks == (("Глава 1", None), ("", FIGURE))


async def test_a_page_of_a_job_with_its_native_form_as_paddlex_is_read(store: FolderStore) -> None:
    figure = FIGURE.replace("imgs/", "imgs/page-2-")
    await store.put(f"2026/11/25/{JOB}/page-results/000002.json", (STORED / "page-result.json").read_bytes(), "")
    await store.put(f"2026/11/25/{JOB}/{figure}", JPEG, "image/jpeg")
    jobs = JobStore(store, no_cache())
    content, engine = await jobs.page(JOB, 2)
    check(content, figure)
    assert engine == ENGINE
    await jobs.save_page(JOB, content, engine)
    assert await jobs.page(JOB, 2) == (content, engine)


async def test_a_cached_page_is_found_under_its_key_and_read(store: FolderStore) -> None:
    cache = PageCache(store, StoreMonitor(store), Settings(cache_days=1), lambda engine: ENGINE.version)
    digest = cache.digest(b"%PDF-1.7 a document")
    key = f"cache/{datetime.now(UTC):%Y%m%d}/{CACHED.format(digest=digest)}"
    await store.put(key, (STORED / "cached-page.json").read_bytes(), "")
    pages = cache.pages_of(SourceFile("id", b"", owner="анна", digest=digest), "tesseract", OPTIONS, 144)
    assert pages is not None
    result = await pages.get(2)
    assert result is not None and result.engine == ENGINE
    check(result.content, FIGURE)
    await store.delete(key)
    await pages.put(2, result)
    again = await pages.get(2)
    assert await store.get(key) and again is not None
    assert again.content == result.content and again.engine == result.engine
