"""From the library's result to the service's page: plain data, whatever the blocks are."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from serve_app.document import DocumentStatus, DocumentSummary, EngineInfo, ErrorInfo, PageContent, StorageInfo
from serve_app.document.options import ParsingOptions
from serve_app.outputs.alto import alto_document
from serve_app.outputs.page_xml import page_xml
from serve_app.recognition.engines.paddleocr_vl.page_conversion import page_content
from tests.support.schemas import schema

SUMMARY = DocumentSummary(
    id="20261124-1c9bb54f6d30be71e39a8f02",
    status=DocumentStatus.DONE,
    page_count=1,
    engine=EngineInfo(name="paddleocr-vl", version="1.6"),
    timings_ms={},
    storage=StorageInfo(status="stored"),
)
TABLE = "<table><tr><td>Чай</td><td>3.50</td></tr></table>"


def library_result(*blocks: tuple[str, str], figure: int | None = None, degrees: int | None = None) -> Any:
    """A result of 300 x 200 pixels with (label, content) below each other; `figure`: index of one with a picture."""
    from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLBlock, PaddleOCRVLResult

    parsed = [
        PaddleOCRVLBlock(label, [10, 20 * n, 110, 20 * n + 15], content, group_id=n)
        for n, (label, content) in enumerate(blocks)
    ]
    if figure is not None:
        picture = Image.fromarray(np.full((15, 100, 3), (200, 30, 30), np.uint8))
        parsed[figure].image = {"path": "imgs/picture.jpg", "img": picture}
        parsed[figure].polygon_points = np.array([[10, 0], [110, 0], [110, 15], [10, 15]], np.float32)
    names = ("input_path", "page_index", "page_count")
    return PaddleOCRVLResult(
        {
            **dict.fromkeys(names),
            "width": 300,
            "height": 200,
            "doc_preprocessor_res": {"angle": degrees},
            "layout_det_res": {"boxes": []},
            "table_res_list": [],
            "parsing_res_list": parsed,
            "spotting_res": {},
            "imgs_in_doc": [],
            "model_settings": {
                "use_doc_preprocessor": degrees is not None,
                "use_layout_detection": True,
                "use_chart_recognition": False,
                "use_seal_recognition": False,
                "markdown_ignore_labels": ["number"],
            },
        }
    )


def plain(result: Any, *warnings: ErrorInfo, **options: Any) -> PageContent:
    return page_content(result, ParsingOptions(**options), number=3, dpi=150, warnings=list(warnings))


def test_a_page_holds_its_blocks_in_order_with_text_and_markup_apart() -> None:
    page = plain(library_result(("text", " Привет \n"), ("table", TABLE), ("number", "7"))).page
    assert (page.number, page.width, page.height, page.dpi, page.rotation) == (3, 300, 200, 150, 0)
    assert [(block.label, block.text, block.content) for block in page.blocks] == [
        ("text", "Привет", None),
        ("table", "Чай\t3.50", TABLE),
        ("number", "7", None),
    ]
    assert [block.bbox for block in page.blocks] == [(10, 0, 110, 15), (10, 20, 110, 35), (10, 40, 110, 55)]
    assert [(block.order, block.group) for block in page.blocks] == [(0, 0), (1, 1), (2, 2)]
    assert page.text == "Привет\n\nЧай\t3.50\n\n7"
    assert "Привет" in page.markdown and TABLE in page.markdown and "7" not in page.markdown
    assert (page.degraded, page.warnings) == (False, [])


def test_a_picture_is_a_jpeg_that_its_block_names() -> None:
    reading = plain(library_result(("image", ""), ("text", "a"), figure=0))
    (figure,) = reading.figures
    with Image.open(io.BytesIO(figure.jpeg)) as picture:
        red, green, _ = picture.convert("RGB").getpixel((50, 7))  # type: ignore[misc]  # three of RGB
        assert (picture.format, picture.size) == ("JPEG", (100, 15))
        assert red > 150 > 80 > green
    block = reading.page.blocks[0]
    assert block.figure == figure.path == "imgs/picture.jpg"
    assert block.polygon == [(10, 0), (110, 0), (110, 15), (10, 15)]
    assert reading.page.blocks[1].figure is None
    assert f"({figure.path})" in reading.page.markdown


def test_markdown_is_plain_unless_it_should_be_pretty() -> None:
    result = library_result(("image", ""), figure=0)
    assert "<div" not in plain(result).page.markdown
    assert "<div" in plain(result, prettify_markdown=True).page.markdown


@pytest.mark.parametrize(("degrees", "rotation"), [(None, 0), (-1, 0), (90, 90), (270, 270)])
def test_how_a_page_was_turned(degrees: int | None, rotation: int) -> None:
    assert plain(library_result(("text", "a"), degrees=degrees)).page.rotation == rotation


def test_a_page_with_warnings_is_degraded() -> None:
    warning = ErrorInfo(code="block_cut", message="1 block(s) reached the limit of tokens and are cut.")
    page = plain(library_result(("text", "a")), warning).page
    assert page.degraded and page.warnings == [warning]


def test_the_reading_is_plain_data_without_file_names() -> None:
    reading = plain(library_result(("image", ""), ("text", "a"), figure=0))
    assert pickle.loads(pickle.dumps(reading)) == reading
    assert reading.native is not None
    assert {"input_path", "page_index"}.isdisjoint(reading.native.result)
    assert b"paddlex." not in pickle.dumps(reading)


def test_an_empty_page() -> None:
    reading = plain(library_result())
    assert (reading.page.blocks, reading.page.text, reading.page.markdown, reading.figures) == ([], "", "", ())


@pytest.mark.parametrize("degrees", [None, 90])
def test_a_page_without_words_is_valid_alto_and_page_xml(degrees: int | None) -> None:
    read = library_result(
        ("doc_title", "Отчёт"),
        ("image", ""),
        ("table", TABLE),
        ("display_formula", "$$x < 1$$"),
        figure=1,
        degrees=degrees,
    )
    page = plain(read).page
    alto = etree.fromstring(
        "".join(alto_document([page], SUMMARY, labels=sorted({b.label for b in page.blocks}))).encode()
    )
    schema("alto-4-4").assertValid(alto)
    assert [string.get("CONTENT") for string in alto.iter("{*}String")][:4] == ["Отчёт", "Чай", "3.50", "$$x"]
    regions = etree.fromstring("".join(page_xml(page, SUMMARY)).encode())
    schema("pagecontent-2019-07-15").assertValid(regions)
    assert [text.text for text in regions.iter("{*}Unicode")] == ["Отчёт", "Чай\t3.50", "$$x < 1$$"]
