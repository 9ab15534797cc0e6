"""What a request may ask of PaddleOCR-VL: names, types and bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.document.options import MAX_BLOCK_PIXELS, MAX_NEW_TOKENS, ParsingOptions, RecognitionOptions

ACCEPTED: list[tuple[str, Any, Any]] = [
    ("useDocOrientationClassify", True, True),
    ("use_doc_orientation_classify", False, False),
    ("useDocUnwarping", True, True),
    ("useLayoutDetection", False, False),
    ("use_layout_detection", None, None),
    ("useChartRecognition", True, True),
    ("useSealRecognition", True, True),
    ("useOcrForImageBlock", True, True),
    ("layoutNms", True, True),
    ("formatBlockContent", True, True),
    ("mergeLayoutBlocks", False, False),
    ("layoutThreshold", 0, 0.0),
    ("layoutThreshold", 1, 1.0),
    ("layoutThreshold", {"text": 0.3, "22": 0.5}, {"text": 0.3, "22": 0.5}),
    ("layoutUnclipRatio", 1.1, 1.1),
    ("layoutUnclipRatio", [1.1, 2], (1.1, 2.0)),
    ("layout_unclip_ratio", {"table": [1, 1.5]}, {"table": (1.0, 1.5)}),
    ("layoutMergeBboxesMode", "union", "union"),
    ("layoutMergeBboxesMode", {"image": "large", "3": "small"}, {"image": "large", "3": "small"}),
    ("layoutShapeMode", "rect", "rect"),
    ("promptLabel", "spotting", "spotting"),
    ("repetitionPenalty", 1.2, 1.2),
    ("temperature", 0, 0.0),
    ("topP", 1, 1.0),
    ("top_p", 0.5, 0.5),
    ("minPixels", 784, 784),
    ("maxPixels", MAX_BLOCK_PIXELS, MAX_BLOCK_PIXELS),
    ("maxNewTokens", MAX_NEW_TOKENS, MAX_NEW_TOKENS),
    ("prettifyMarkdown", True, True),
    ("showFormulaNumber", True, True),
    ("markdownIgnoreLabels", [], ()),
    ("markdown_ignore_labels", ["header", "footer_image"], ("header", "footer_image")),
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"useChartRecognition": "perhaps"}, "useChartRecognition"),
    ({"use_seal_recognition": 2}, "use_seal_recognition"),
    ({"layoutThreshold": 1.01}, "layoutThreshold"),
    ({"layoutThreshold": -0.1}, "layoutThreshold"),
    ({"layoutThreshold": {"text": 2}}, "layoutThreshold"),
    ({"layoutThreshold": {"Text": 0.5}}, "layoutThreshold"),
    ({"layoutThreshold": {"../etc": 0.5}}, "layoutThreshold"),
    ({"layoutThreshold": {"a" * 41: 0.5}}, "layoutThreshold"),
    ({"layoutThreshold": [0.5]}, "layoutThreshold"),
    ({"layoutUnclipRatio": 0}, "layoutUnclipRatio"),
    ({"layoutUnclipRatio": 10.5}, "layoutUnclipRatio"),
    ({"layoutUnclipRatio": [1.0]}, "layoutUnclipRatio"),
    ({"layoutUnclipRatio": [1, 2, 3]}, "layoutUnclipRatio"),
    ({"layoutUnclipRatio": {"text": 1.5}}, "layoutUnclipRatio"),
    ({"layoutMergeBboxesMode": "medium"}, "layoutMergeBboxesMode"),
    ({"layoutMergeBboxesMode": {"text": "medium"}}, "layoutMergeBboxesMode"),
    ({"layoutShapeMode": "circle"}, "layoutShapeMode"),
    ({"layoutShapeMode": None}, "layoutShapeMode"),
    ({"promptLabel": "OCR"}, "promptLabel"),
    ({"repetitionPenalty": 0}, "repetitionPenalty"),
    ({"repetitionPenalty": 10.1}, "repetitionPenalty"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 11}, "temperature"),
    ({"topP": 0}, "topP"),
    ({"top_p": 1.1}, "top_p"),
    ({"minPixels": 0}, "minPixels"),
    ({"maxPixels": MAX_BLOCK_PIXELS + 1}, "maxPixels"),
    ({"maxPixels": 1.5}, "maxPixels"),
    ({"maxNewTokens": 0}, "maxNewTokens"),
    ({"maxNewTokens": MAX_NEW_TOKENS + 1}, "maxNewTokens"),
    ({"maxNewTokens": "many"}, "maxNewTokens"),
    ({"vlmExtraArgs": {"ocrMinPixels": 5}}, "vlmExtraArgs.ocrMinPixels"),
    ({"vlmExtraArgs": {"spotting_min_pixels": 5}}, "vlmExtraArgs.spotting_min_pixels"),
    ({"vlmExtraArgs": {"table_max_pixels": 0}}, "vlmExtraArgs.table_max_pixels"),
    ({"vlmExtraArgs": {"seal_min_pixels": 9, "seal_max_pixels": 8}}, "vlmExtraArgs"),
    ({"vlmExtraArgs": []}, "vlmExtraArgs"),
    ({"markdownIgnoreLabels": ["text"] * 51}, "markdownIgnoreLabels"),
    ({"markdownIgnoreLabels": ["Text"]}, "markdownIgnoreLabels.0"),
    ({"markdownIgnoreLabels": "text"}, "markdownIgnoreLabels"),
    ({"prettifyMarkdown": None}, "prettifyMarkdown"),
    ({"minPixels": 2000, "maxPixels": 1000}, ""),
    ({"useCharts": True}, "useCharts"),
    ({"use-chart-recognition": True}, "use-chart-recognition"),
    ({"restructurePages": True}, "restructurePages"),
]


def snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)


@pytest.mark.parametrize(("name", "value", "read"), ACCEPTED)
def test_a_valid_value_is_read_in_both_spellings(name: str, value: Any, read: Any) -> None:
    for spelling in {name, snake(name)}:
        # As a request brings it.
        options = ParsingOptions.model_validate_json(json.dumps({spelling: value}))
        assert getattr(options, snake(name)) == read
        assert options.model_fields_set == {snake(name)}


@pytest.mark.parametrize(("values", "field"), REFUSED, ids=[json.dumps(values)[:60] for values, _ in REFUSED])
def test_a_value_that_is_not_valid_is_refused_with_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ParsingOptions.model_validate_json(json.dumps(values))
    # Of a union, each alternative says below the field's name what it has against the value.
    fields = {".".join(map(str, error["loc"])) for error in refused.value.errors()}
    assert fields and all(each == field or each.startswith(f"{field}.") for each in fields), fields


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["layoutThreshold", "temperature", "layoutUnclipRatio"])
def test_what_is_no_number_is_no_value(field: str, number: str) -> None:
    with pytest.raises(ValidationError):
        ParsingOptions.model_validate_json(f'{{"{field}": {number}}}')


def test_every_field_can_be_set_and_nothing_is_set_by_itself() -> None:
    told = {snake(name) for name, _, _ in ACCEPTED} | {"vlm_extra_args"}
    assert told == set(ParsingOptions.model_fields)
    unset = {name for name, value in ParsingOptions().model_dump().items() if value is not None}
    assert unset == {"layout_shape_mode", "prettify_markdown", "show_formula_number"}


def test_pixels_of_single_kinds_of_blocks() -> None:
    options = ParsingOptions.model_validate({"vlmExtraArgs": {"ocr_min_pixels": 800, "ocr_max_pixels": 800}})
    assert options.vlm_extra_args is not None
    assert options.vlm_extra_args.model_dump(exclude_none=True) == {"ocr_min_pixels": 800, "ocr_max_pixels": 800}


def test_options_are_values() -> None:
    assert RecognitionOptions() == RecognitionOptions(parsing=ParsingOptions())
    with pytest.raises(ValidationError):
        ParsingOptions().top_p = 0.5  # type: ignore[misc]  # it is frozen
