"""The engine paddleocr-vl over HTTP, natively, with tiny models through the library's real code."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import docx
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image, ImageDraw

from tests.support.pdfs import scan
from tests.support.samples import SAMPLES
from tests.support.service import KEY, Service
from tests.support.tiny_paddleocr_vl import OCR_TEXT, TABLE_HTML

ROOT = Path(__file__).parents[2]


def read(vl: Service, page: bytes, **fields: Any) -> dict[str, Any]:
    with vl.client() as client:
        answer = client.post("/ocr", files={"file": page}, data=fields)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("sample", ["page-ru", "page-en"])
def test_a_sample_page_goes_through_the_whole_of_it(vl: Service, sample: str) -> None:
    document = read(vl, (SAMPLES / f"{sample}.png").read_bytes())
    assert (document["status"], document["degraded"]) == ("done", False)
    assert document["engine"]["name"] == "paddleocr-vl"
    (page,) = document["pages"]
    assert [(block["label"], block["order"]) for block in page["blocks"]] == [
        ("doc_title", 0), ("text", 1), ("table", 2), ("display_formula", 3), ("image", 4), ("number", 5),
    ]  # fmt: skip
    title, _, table, formula, image, _ = page["blocks"]
    assert title["text"] == OCR_TEXT and title["content"] is None
    assert title["polygon"] and title["bbox"] == [165, 70, 1489, 234]
    assert (table["text"], table["content"]) == ("Товар\tPrice\nЧай\t3.50", TABLE_HTML)
    assert formula["text"] == "$$  E=mc^{2}  $$"
    assert document["markdown"].startswith(f"# {OCR_TEXT}\n\n{OCR_TEXT}\n\n")
    assert f"![]({image['figure']})" in document["markdown"]
    assert OCR_TEXT in document["text"]
    stages = ("rasterize", "queue", "analyze", "recognize", "store", "total")
    assert all(document["timings_ms"][stage] >= 0 for stage in stages)


def test_figures_are_stored_where_the_markdown_links_them(vl: Service) -> None:
    page = Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(page).rectangle((70, 560, 260, 700), fill=(200, 30, 40))
    stream = io.BytesIO()
    page.save(stream, "PNG")
    storage = read(vl, stream.getvalue())["storage"]
    folder = Path(storage["uri"].removeprefix("file://"))
    (figure,) = [key for key in storage["keys"] if key.startswith("imgs/")]
    with Image.open(folder / figure) as crop:
        assert crop.format == "JPEG" and crop.size == (210, 152)
        colour = np.asarray(crop)[80, 100].astype(int)
    assert np.abs(colour - (200, 30, 40)).max() < 12, "JPEG changes a colour a little"
    assert f"]({figure})" in (folder / "result.md").read_text()


def test_options_go_with_a_request_in_json_and_in_a_form(vl: Service, russian_page: bytes) -> None:
    options = {"useLayoutDetection": False, "promptLabel": "table", "maxNewTokens": 50}
    document = read(vl, russian_page, options=json.dumps(options))
    (block,) = document["pages"][0]["blocks"]
    assert (block["label"], block["content"]) == ("table", TABLE_HTML)

    cut = read(vl, russian_page, options='{"max_new_tokens": 2}')
    assert (cut["status"], cut["degraded"]) == ("done", True)
    assert {warning["code"] for warning in cut["pages"][0]["warnings"]} == {"block_cut"}


def test_a_turned_page_is_read_upright_where_that_is_asked_for(vl: Service) -> None:
    page = Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(page).rectangle((0, 0, 600, 110), fill="black")  # how the tiny model tells a page's head
    (upright,) = read(vl, as_png(page))["pages"]
    for degrees in (90, 180, 270):
        given = page.rotate(degrees, expand=True)  # counterclockwise
        (turned,) = read(vl, as_png(given), options='{"useDocOrientationClassify": true}')["pages"]
        assert (turned["width"], turned["height"]) == given.size
        assert turned["rotation"] == 360 - degrees, "clockwise"
        for block, standing in zip(turned["blocks"], upright["blocks"], strict=True):
            # Where the block would be if one drew it on the upright page and turned that.
            mask = Image.new("L", page.size)
            left, top, right, bottom = standing["bbox"]
            ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
            assert block["bbox"] == pytest.approx(mask.rotate(degrees, expand=True).getbbox(), abs=2)
    (as_it_is,) = read(vl, as_png(page.rotate(90, expand=True)))["pages"]
    assert as_it_is["rotation"] == 0 and (as_it_is["width"], as_it_is["height"]) == (800, 600)


def as_png(page: Image.Image) -> bytes:
    stream = io.BytesIO()
    page.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"options": '{"layoutThreshold": 2}'}, "options.layoutThreshold"),
        ({"options": '{"minPixels": 5, "maxPixels": 4}'}, "options"),
        ({"options": '{"unknown": 1}'}, "options.unknown"),
        ({"options": "not json"}, "options"),
        ({"options": '{"promptLabel": "poem"}'}, "options.promptLabel"),
        ({"options": '{"layoutThreshold": {"no_such_class": 0.5}}'}, None),
        ({"engine": "tesseract", "options": "{}"}, "options"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    vl: Service, russian_page: bytes, fields: dict[str, str], field: str | None
) -> None:
    with vl.client() as client:
        answer = client.post("/ocr", files={"file": russian_page}, data=fields)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_field"
    if field is not None:
        assert any(each["field"].startswith(field) for each in error["fields"]), error


def test_a_client_that_always_says_a_language_may_go_on_doing_so(vl: Service, russian_page: bytes) -> None:
    assert OCR_TEXT in read(vl, russian_page, language="rus")["text"]


def test_the_documented_command_with_options(vl: Service) -> None:
    page = (ROOT / "docs" / "paddleocr-vl.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("curl")]
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT, env={**os.environ, "OCR": vl.url, "KEY": KEY}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["status"] == "done"


def test_markdown_and_text_alone(vl: Service, russian_page: bytes) -> None:
    with vl.client() as client:
        markdown = client.post("/ocr", files={"file": russian_page}, headers={"Accept": "text/markdown"})
        text = client.post("/ocr", files={"file": russian_page}, headers={"Accept": "text/plain"})
    assert markdown.text.startswith(f"# {OCR_TEXT}") and "<table>" in markdown.text
    assert "Товар\tPrice\nЧай\t3.50" in text.text and "<" not in text.text


def test_tables_of_pages_that_follow_each_other_are_one_in_the_document(vl: Service, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (300, 400), "white").save(stream, "PNG")
    book = scan(*[stream.getvalue()] * 3)
    whole_page = {"options": json.dumps({"useLayoutDetection": False, "promptLabel": "table"})}
    with vl.client() as client:
        archive = client.post("/ocr", files={"file": book}, data={**whole_page, "output": "zip"})
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        files.extractall(tmp_path)
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["status"] == "done" and document["warnings"] == []
    assert document["timings_ms"]["restructure"] > 0
    # The tiny model reads the same rows on each page, which count as the table's head and are there once.
    assert document["markdown"].count("<table") == 1 and document["text"] == "Товар\tPrice\nЧай\t3.50"
    for page in document["pages"]:
        (block,) = page["blocks"]
        assert (block["content"], page["markdown"].count("<table")) == (TABLE_HTML, 1)
        assert block["continues_from"] == (None if page["number"] == 1 else 1)
    assert len(BeautifulSoup((tmp_path / "result.html").read_text(), "html.parser").find_all("table")) == 1
    assert len(docx.Document(str(tmp_path / "result.docx")).tables) == 1
    assert (tmp_path / "result.md").read_text() == document["markdown"]
    # Where pages are what they are on paper, each has its own rows.
    told = subprocess.run(
        ["pdftotext", str(tmp_path / "result.pdf"), "-"], capture_output=True, text=True, check=True
    ).stdout
    assert [page.split() for page in told.split("\f")[:3]] == [["Товар", "Price", "Чай", "3.50"]] * 3

    apart = read(vl, book, restructure="false", **whole_page)
    assert apart["markdown"].count("<table") == 3 and "restructure" not in apart["timings_ms"]


def test_pictures_of_a_document_have_names_of_their_own(vl: Service, russian_page: bytes) -> None:
    document = read(vl, scan(russian_page, russian_page), include_images="true")
    figures = [block["figure"] for page in document["pages"] for block in page["blocks"] if block["figure"]]
    assert len(set(figures)) == 2 and set(figures) == set(document["images"])
    folder = Path(document["storage"]["uri"].removeprefix("file://"))
    for figure in figures:
        assert base64.b64decode(document["images"][figure]) == (folder / figure).read_bytes()
        assert f"]({figure})" in document["markdown"]
    for page in document["pages"]:
        for block in page["blocks"]:
            if block["markdown_span"] is not None and block["figure"] is not None:
                assert page["markdown"][slice(*block["markdown_span"])].strip() == f"![]({block['figure']})"
    levels = [block["level"] for page in document["pages"] for block in page["blocks"] if block["label"] == "doc_title"]
    assert levels == [1, 1]
