"""PaddleX's own server beside ours, on the same tiny models: the same pages, the same JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.official_server import official_server
from tests.support.pdfs import pages_pdf
from tests.support.service import Service
from tests.support.tiny_paddleocr_vl import TinyModels

SMALL = (150, 200)  # points; the models read a small page in a tenth of the time


@pytest.fixture(scope="module")
def theirs(tiny_models: TinyModels) -> Iterator[str]:
    arguments = {
        "cpu_threads": 1,
        "layout_detection_model_dir": str(tiny_models.layout),
        "vl_rec_model_dir": str(tiny_models.vlm),
        "use_queues": False,
    }
    with official_server(arguments) as server:
        yield server.address


@pytest.fixture(scope="module")
def parsed_pages(theirs: str) -> list[dict[str, Any]]:
    """Two pages as the official server parses them, for requests to /restructure-pages."""
    body = {"file": b64(pages_pdf([b""] * 2, size=SMALL)), "fileType": 0}
    answer = httpx.post(f"{theirs}/layout-parsing", json=body, timeout=120)
    assert answer.status_code == 200, answer.text[:500]
    return [
        {"prunedResult": page["prunedResult"], "markdownImages": page["markdown"].get("images")}
        for page in answer.json()["result"]["layoutParsingResults"]
    ]


def both(vl: Service, theirs: str, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    with vl.client() as client:
        answers = client.post(path, json=body), httpx.post(f"{theirs}{path}", json=body, timeout=120)
    for answer in answers:
        assert answer.status_code == 200, answer.text[:500]
    one, other = (answer.json() for answer in answers)
    assert one.keys() == other.keys()
    for envelope in (one, other):
        assert envelope.pop("logId") == body["logId"] if "logId" in body else envelope.pop("logId")
    return one, other


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """But for pictures, which are JPEGs of two encoders: there, the same names and sizes. Only this service has warnings."""
    for page in one["result"]["layoutParsingResults"]:
        assert all(warning["code"] for warning in page.pop("warnings", []))
    one, other = (_without_pictures(each) for each in (one, other))
    assert list(_differences(one, other)) == []


def _differences(one: Any, other: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        for name in one:
            yield from _differences(one[name], other[name], f"{at}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{at}[{index}]")
    elif one != other:
        yield at, one, other


def _without_pictures(envelope: dict[str, Any]) -> dict[str, Any]:
    for page in envelope["result"]["layoutParsingResults"]:
        images = page["markdown"].get("images") or {}
        page["markdown"]["images"] = {path: _size(image) for path, image in images.items()}
    return envelope


def _size(image: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
        return opened.size


def page(seed: int, size: tuple[int, int] = (600, 800)) -> bytes:
    """A page with something at the places where the tiny layout model finds blocks."""
    noise = np.random.default_rng(seed).integers(200, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle((70, 560, 260, 700), fill=(200, 30, 40))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"prettifyMarkdown": False, "showFormulaNumber": True},
    {"useLayoutDetection": False, "promptLabel": "table"},
    {"useChartRecognition": True, "useSealRecognition": True, "mergeLayoutBlocks": False},
    {"layoutThreshold": 0.2, "layoutNms": True, "layoutUnclipRatio": 1.1, "layoutMergeBboxesMode": "large"},
    {"markdownIgnoreLabels": ["table"], "formatBlockContent": True, "layoutShapeMode": "rect"},
    {"maxNewTokens": 5, "minPixels": 112896, "maxPixels": 200000, "logId": "a/b"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_an_image_is_parsed_to_the_same_json(vl: Service, theirs: str, options: dict[str, Any]) -> None:
    assert_same(*both(vl, theirs, "/layout-parsing", {"file": b64(page(1)), "fileType": 1, **options}))


@pytest.mark.parametrize("size", [(595.28, 841.89), (300.2, 200.7)])
def test_a_pdf_is_parsed_to_the_same_json(vl: Service, theirs: str, size: tuple[float, float]) -> None:
    book = pages_pdf([b"0 0 0 rg 10 10 80 40 re f", b"1 0 0 rg 30 60 40 40 re f", b""], size=size)
    assert_same(*both(vl, theirs, "/layout-parsing", {"file": b64(book), "fileType": 0}))


@pytest.mark.parametrize(
    "how", [{}, {"mergeTables": False, "relevelTitles": False, "prettifyMarkdown": False, "formatBlockContent": True}]
)
def test_pages_are_made_one_piece_to_the_same_json(
    vl: Service, theirs: str, parsed_pages: list[dict[str, Any]], how: dict[str, Any]
) -> None:
    book = {"file": b64(pages_pdf([b""] * 2, size=SMALL)), "fileType": 0}
    one, other = both(vl, theirs, "/layout-parsing", {**book, **how, "restructurePages": True})
    assert_same(one, other)
    # Pages that are nothing but a table, which goes on over three.
    book = {**book, "file": b64(pages_pdf([b""] * 3, size=SMALL))}
    table = {"useLayoutDetection": False, "promptLabel": "table", "restructurePages": True}
    assert_same(*both(vl, theirs, "/layout-parsing", {**book, **how, **table}))

    for concatenate in (False, True):
        body = {"pages": parsed_pages, "concatenatePages": concatenate, **how}
        assert_same(*both(vl, theirs, "/restructure-pages", body))
