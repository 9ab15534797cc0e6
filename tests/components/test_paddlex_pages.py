"""PaddleX's form of pages, as clients send it back and as engines that have another one are written in it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from typing import Any

import docx
import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError

from serve_app.document import Block, ErrorInfo, Figure, NativePage, Page, PageContent, Word
from serve_app.document.figures import qualify_figures
from serve_app.document.markdown import page_markdown
from serve_app.document.options import Restructuring
from serve_app.document.spool import PageSpool
from serve_app.errors import InvalidField, TooLarge
from serve_app.ingress.requests.validation_errors import fields_error
from serve_app.outputs.rendering import WriterPool
from serve_app.paddlex.exports import Exports, export_spool, export_uploaded
from serve_app.paddlex.fallback_structure import restructure_without_engine
from serve_app.paddlex.pages import failed_result, from_paddlex, ocr_result, to_paddlex, with_html_pictures
from serve_app.paddlex.requests import LayoutParsingFields, LayoutParsingRequest, LinesFields, RestructureRequest
from serve_app.paddlex.responses import inline_picture, layout_parsing_results, native_pages, ocr_results
from serve_app.paddlex.uploaded_pages import MAX_BLOCKS, MAX_CHARACTERS, check_size
from serve_app.settings import Limits

PICTURE = "imgs/img_in_image_box_10_200_90_280.jpg"


def jpeg(size: tuple[int, int] = (8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(stream, "JPEG")
    return stream.getvalue()


def page(number: int = 1) -> Page:
    blocks = [
        Block(label="title", text="# Счёт № 1", bbox=(0, 0, 100, 20), order=0),
        Block(label="text", text="1. *первый* пункт\nи второй", bbox=(0, 30, 100, 60), order=1, group=1),
        Block(label="image", text="", bbox=(10, 200, 90, 280), order=2, figure=PICTURE),
        Block(label="number", text="17", bbox=(0, 290, 10, 299), order=3),
    ]
    return Page(number=number, width=100, height=300, dpi=144, blocks=blocks, markdown=page_markdown(blocks))


def written(**how: Any) -> NativePage:
    return to_paddlex(page(), ignore_labels=None, pretty=how.get("prettify_markdown", True))


@pytest.mark.parametrize("pretty", [True, False])
def test_restructured_pages_have_the_same_markdown(pretty: bool) -> None:
    one = written(prettify_markdown=pretty)
    assert PICTURE in one.markdown and r"1\. \*первый\* пункт" in one.markdown and "17" not in one.markdown
    first, second = restructure_without_engine([one, one], Restructuring(prettify_markdown=pretty))
    assert first.markdown == second.markdown == one.markdown
    ids = [block["global_block_id"] for each in (first, second) for block in each.result["parsing_res_list"]]
    assert ids == list(range(8))
    (whole,) = restructure_without_engine([one, one], Restructuring(prettify_markdown=pretty, concatenate=True))
    assert whole.markdown == f"{one.markdown}\n\n{one.markdown}" and whole.result["page_count"] == 2


def test_blocks_with_ignored_labels_are_listed_but_not_in_markdown() -> None:
    one = to_paddlex(page(), ignore_labels=("title",), pretty=False)
    assert "Счёт" not in one.markdown and "17" in one.markdown
    listed = one.result["parsing_res_list"]
    assert [block["block_order"] for block in listed] == [None, 1, 2, None]
    assert [block["group_id"] for block in listed] == [0, 1, 2, 3]
    assert len({box["cls_id"] for box in one.result["layout_det_res"]["boxes"]}) == 4
    assert restructure_without_engine([one], Restructuring(prettify_markdown=False))[0].markdown == one.markdown


def test_a_page_that_failed_may_be_sent_back() -> None:
    request = RestructureRequest.model_validate({"pages": [{"prunedResult": failed_result()}]})
    (restructured,) = restructure_without_engine([NativePage(request.pages[0].pruned_result, "")], Restructuring())
    assert restructured.markdown == "" and restructured.result["layout_det_res"] == {"boxes": []}


def test_lines_below_the_threshold_are_left_out_and_one_at_the_threshold_stays() -> None:
    words = [
        Word(text=text, bbox=(x, 0, x + 9, 9), confidence=score) for text, x, score in (("a", 0, 0.5), ("b", 10, 0.5))
    ]
    block = Block(label="text", text="a b", bbox=(0, 0, 20, 10), order=0, words=words)
    reads_lines = Page(number=1, width=20, height=10, dpi=144, blocks=[block])

    def texts(least: float) -> Any:
        return ocr_result(reads_lines, return_word_box=True, least_score=least, preprocessed=True)

    assert texts(0.5)["rec_texts"] == ["a b"] and texts(0.5)["text_word"] == [["a", "b"]]
    assert texts(0.51)["rec_texts"] == [] and len(texts(0.51)["dt_polys"]) == 1
    assert texts(0)["model_settings"]["use_doc_preprocessor"] is True


def test_lines_of_a_crooked_page_have_crooked_corners() -> None:
    one = Word(text="a", bbox=(10, 10, 31, 31), polygon=[(10.0, 10.0), (30.0, 11.0), (29.0, 31.0), (9.0, 30.0)])
    two = Word(text="b", bbox=(40, 11, 61, 32), polygon=[(40.0, 11.5), (60.0, 12.5), (59.0, 32.5), (39.0, 31.5)])
    block = Block(label="text", text="a b", bbox=(9, 10, 61, 33), order=0, words=[one, two], polygon=one.polygon)
    crooked = Page(number=1, width=100, height=100, dpi=72, skew=2.8624, blocks=[block])
    result = ocr_result(crooked, return_word_box=False, least_score=0.0, preprocessed=False)
    assert result["rec_polys"] == result["dt_polys"] == [[[10, 10], [60, 12], [59, 33], [9, 30]]]
    assert result["rec_boxes"] == [[10, 10, 61, 32]]
    (listed,) = to_paddlex(crooked, ignore_labels=None, pretty=False).result["layout_det_res"]["boxes"]
    assert listed["polygon_points"] == [[10, 10], [30, 11], [29, 31], [9, 30]]


def pruned(**changes: Any) -> dict[str, Any]:
    block = {"block_label": "text", "block_content": "x", "block_bbox": [0, 0, 9, 9]}
    return {"width": 10, "height": 10, "parsing_res_list": [block], **changes}


def blocks(**changes: Any) -> dict[str, Any]:
    return pruned(parsing_res_list=[pruned()["parsing_res_list"][0] | changes])


NESTED: Any = []
for _ in range(60):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        pruned(width=None),
        pruned(width=float("nan")),
        pruned(height=float("inf")),
        pruned(width=-1),
        pruned(parsing_res_list="x"),
        pruned(parsing_res_list=[7]),
        blocks(block_bbox=[0, 0, 9]),
        blocks(block_bbox=[float("inf"), 0, 9, 9]),
        blocks(block_bbox=[10**400, 0, 9, 9]),
        blocks(block_content=None),
        blocks(block_label=["text"]),
        pruned(model_settings={"markdown_ignore_labels": ["x"] * 51}),
        pruned(model_settings={"markdown_ignore_labels": "x" * 1000}),
        pruned(anything=NESTED),
        pruned(anything=[float("nan")]),
    ],
    ids=range(16),
)
def test_a_malformed_page_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        RestructureRequest.model_validate({"pages": [{"prunedResult": odd}]})
    error = fields_error(refused.value, RestructureRequest)
    assert error.fields[0].field == "pages.0.prunedResult", error.message
    assert error.message.startswith(("pages.0.prunedResult: is n", "pages.0.prunedResult: holds a number"))


def test_uploaded_pages_are_unchanged_and_limited_in_size() -> None:
    request = RestructureRequest.model_validate({"pages": [{"prunedResult": pruned(unknown={"a": [1, 2.5, None]})}]})
    assert request.pages[0].pruned_result == pruned(unknown={"a": [1, 2.5, None]})
    check_size([pruned(parsing_res_list=pruned()["parsing_res_list"] * MAX_BLOCKS)])
    with pytest.raises(TooLarge):
        check_size([pruned(parsing_res_list=pruned()["parsing_res_list"] * MAX_BLOCKS), pruned()])
    with pytest.raises(TooLarge):
        check_size([blocks(block_content="x" * MAX_CHARACTERS), pruned()])


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (LayoutParsingRequest, {}, "file: is missing"),
        (
            LayoutParsingRequest,
            {"file": "x", "layoutThreshold": "x"},
            "layoutThreshold: is not valid; it is the minimum score",
        ),
        (
            LayoutParsingRequest,
            {"file": "x", "layoutThreshold": {"\ud800": 1}},
            "layoutThreshold: is not valid; it is the",
        ),
        (LayoutParsingRequest, {"file": "x", "minPixels": 9, "maxPixels": 8}, "minPixels is more than maxPixels"),
        (LayoutParsingRequest, {"file": "x", "topP": 7}, "topP: must be at most 1"),
        (
            LayoutParsingRequest,
            {"file": "x", "vlmExtraArgs": {"ocr_min_pixels": "x"}},
            "vlmExtraArgs.ocr_min_pixels: must be",
        ),
        (LayoutParsingRequest, {"file": "x", "outputFormats": ["pdf"]}, "outputFormats.0: must be one of: 'docx'"),
        (RestructureRequest, {"pages": []}, "pages: must have at least 1 item(s)"),
        (RestructureRequest, {"pages": [{}]}, "pages.0.prunedResult: is missing"),
        (RestructureRequest, {"pages": 7}, "pages: must be a list"),
    ],
)
def test_errors_use_the_names_of_the_requests_fields(
    model: type[BaseModel], body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    assert fields_error(refused.value, model).message.startswith(message), fields_error(refused.value, model).message


def test_a_list_is_not_called_too_short_because_of_an_item_that_is_not_valid() -> None:
    with pytest.raises(ValidationError) as refused:
        RestructureRequest.model_validate({"pages": [{}]})
    assert fields_error(refused.value, RestructureRequest).message == "pages.0.prunedResult: is missing"


def test_values_beyond_the_services_limits_are_reduced_to_them() -> None:
    asked = LayoutParsingFields.model_validate(
        {
            **{"minPixels": 1, "maxPixels": 5_000_000, "maxNewTokens": 100_000, "temperature": 40},
            **{"layoutUnclipRatio": {"table": 1.5, "text": [1, 20]}, "vlmExtraArgs": {"foo": 1, "ocr_min_pixels": 1}},
        }
    ).parsing
    assert (asked.min_pixels, asked.max_pixels, asked.max_new_tokens) == (784, 4_014_080, 32_768)
    assert asked.temperature == 10 and asked.layout_unclip_ratio == {"table": (1.5, 1.5), "text": (1, 10)}
    assert asked.vlm_extra_args is not None and asked.vlm_extra_args.ocr_min_pixels == 784
    assert LayoutParsingFields.model_validate({"layoutUnclipRatio": [1.1, 1.2]}).parsing.layout_unclip_ratio == (
        1.1,
        1.2,
    )


def spool_of(*numbers: int) -> PageSpool:
    spool = PageSpool()
    for number in numbers:
        spool.add(qualify_figures(PageContent(page(number), (Figure(PICTURE, jpeg()),)), number))
    return spool


async def test_responses_and_docx_files_have_the_same_pages() -> None:
    spool = spool_of(1, 3)
    spool.add(
        PageContent(Page(number=2, width=0, height=0, dpi=0, error=ErrorInfo(code="page_timeout", message="late")))
    )
    asked = LayoutParsingFields(output_formats=("docx",), prettify_markdown=False)
    for restructured in (
        None,
        restructure_without_engine(native_pages(spool, asked), Restructuring(prettify_markdown=False)),
    ):
        with await export_spool(WriterPool(1, Limits()).of(""), spool, restructured, asked.output_formats) as exports:
            told = list(
                layout_parsing_results(asked, spool, restructured, lambda path: inline_picture(spool, path), exports)
            )
        assert [("error" in each, "exports" in each) for each in told] == [(False, True), (True, False), (False, True)]
        for each in (told[0], told[2]):
            assert base64.b64decode(each["markdown"]["images"][PICTURE]) == jpeg()
            assert f"![]({PICTURE})" in each["markdown"]["text"]
            file = docx.Document(io.BytesIO(base64.b64decode(each["exports"]["docx"]["content"])))
            assert len(file.inline_shapes) == 1 and "первый" in "".join(line.text for line in file.paragraphs)
        assert told[2]["exports"]["docx"]["fileName"] == "page-3.docx"
    bare = LayoutParsingFields(return_markdown_images=False)
    (first, *_) = layout_parsing_results(bare, spool, None, lambda path: pytest.fail("not asked for"), Exports())
    assert first["markdown"]["images"] == {} and "exports" not in first
    lines = list(ocr_results(LinesFields(), spool, lambda path: path, preprocessed=False))
    assert lines[0]["prunedResult"]["rec_texts"][0] == "# Счёт № 1" and lines[1]["error"]["code"] == "page_timeout"
    spool.close()


def test_many_pictures_cost_one_walk_through_the_markdown() -> None:
    blocks = [
        Block(label="image", text="", bbox=(n, 0, n + 1, 1), order=n, figure=f"imgs/{n}.jpg") for n in range(5000)
    ]
    page = Page(number=1, width=1, height=1, dpi=1, blocks=blocks)
    started = time.process_time()
    made = with_html_pictures("г" * 1_000_000 + "![](imgs/7.jpg) ![](imgs/other.jpg) ![](imgs/7.jpg)", page)
    assert time.process_time() - started < 1
    assert made.count('<img src="imgs/7.jpg" alt="Image" width="100%" />') == 2 and "![](imgs/other.jpg)" in made


async def test_an_unreadable_picture_leaves_a_note_in_the_docx() -> None:
    one = written()
    odd = [b"", b"GIF89a\x01", jpeg()[:20], b"\x89PNG\r\n\x1a\n" + bytes(40), "не base64".encode()]
    images = [{PICTURE: base64.b64encode(each).decode()} for each in odd] + [{PICTURE: "http://127.0.0.1/x"}]
    with await export_uploaded(WriterPool(1, Limits()).of(""), [one] * len(images), images, ("docx",)) as exports:
        for number in range(1, len(images) + 1):
            content = exports.for_page(number)["exports"]["docx"]["content"]
            file = docx.Document(io.BytesIO(base64.b64decode(content)))
            assert len(file.inline_shapes) == 0 and "первый" in "".join(line.text for line in file.paragraphs)


async def test_writing_a_docx_does_not_block_the_event_loop() -> None:
    table = "<table><tr>" + "<td>" * 63 + "<tr><td>" * 1966
    costly = NativePage(blocks(block_label="table", block_content=table), "")
    longest, before = 0.0, asyncio.get_running_loop().time()
    writing = asyncio.create_task(export_uploaded(WriterPool(1, Limits(decode_s=3)).of(""), [costly], [{}], ("docx",)))
    while not writing.done() and before < asyncio.get_running_loop().time() + 20:
        await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        longest, before = max(longest, now - before), now
    assert longest < 1
    error = writing.exception()
    assert error is None or type(error).__name__ in ("DocumentTimeout", "TooLarge"), error
    if error is None:
        writing.result().__exit__()


def test_from_paddlex_distinguishes_tables_from_text() -> None:
    table = from_paddlex(blocks(block_label="table", block_content="<table></table>"), 1)
    assert (table.blocks[0].content, table.blocks[0].text) == ("<table></table>", "")
    assert json.loads(table.model_dump_json())["width"] == 10
    with pytest.raises(InvalidField):
        raise fields_error(_refused(), LinesFields)


def _refused() -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        LinesFields.model_validate({"textDetThresh": 2})
    return refused.value
