"""The result of a job of PaddleOCR's official API, from a record that an earlier version stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.jobs.record import JobState, decode_record
from serve_app.paddlex import DIALECT
from serve_app.paddlex.job import RESULT, PaddlexResultWriter
from tests.support.job_runs import Bench, Pages

STORED = Path(__file__).parent / "stored" / "official-job.json"


async def result(folder: Path, **payload: Any) -> list[dict[str, Any]]:
    bench = Bench(folder, Pages(), {DIALECT: PaddlexResultWriter})
    record = decode_record(STORED.read_bytes())
    assert record.dialect is not None
    record.dialect.payload |= payload
    await bench.job_store.add(record, b"%PDF-")
    assert await bench.job_store.ids_of_batch("борис", "пачка") == [record.id]
    await bench.runner.run(record)
    assert (await bench.job_store.record(record.id)).state is JobState.DONE
    with await bench.job_store.open_output(record.id, RESULT) as file:
        return [json.loads(line)["result"] for line in file]


@pytest.mark.parametrize("restructure", [True, False])
async def test_a_line_for_each_page_and_links_for_its_pictures(tmp_path: Path, restructure: bool) -> None:
    pages = await result(tmp_path, payload={"restructurePages": restructure, "outputFormats": ["docx"]})
    assert len(pages) == 2, "pages 2 and 3"
    assert pages[0]["dataInfo"]["numPages"] == 2 and "dataInfo" not in pages[1]
    for number, page in enumerate(pages, 2):
        (part,) = page["layoutParsingResults"]
        (block,) = part["prunedResult"]["parsing_res_list"]
        assert block["block_content"] == f"страница {number}"
        assert block.get("global_block_id") == (number - 2 if restructure else None)
        (url,) = part["markdown"]["images"].values()
        assert url.startswith("https://ocr.example.com/files/") and f"page-{number}-" in url


async def test_lines_alone_for_models_that_read_no_layout(tmp_path: Path) -> None:
    pages = await result(tmp_path, model="PP-OCRv5", payload={})
    assert [list(page) for page in pages] == [["ocrResults", "dataInfo"], ["ocrResults"]]
