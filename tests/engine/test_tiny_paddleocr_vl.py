"""The tiny models through the library's own code: the answers, the layouts and the turns that other tests rely on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_paddleocr_vl import (
    DARK_BOXES,
    FIGURE,
    FORMULA_TEXT,
    LIGHT_BOXES,
    OCR_TEXT,
    TABLE_HTML,
    Box,
    TinyModels,
)
from tests.support.vl_pages import DARK, HEIGHT, LIGHT, WIDTH, BgrPage, make_pipeline, page


@pytest.fixture(scope="module")
def pipeline(tiny_models: TinyModels) -> Iterator[Any]:
    pipeline = make_pipeline(
        tiny_models,
        "v1.6",
        doc_orientation_classify_model_dir=str(tiny_models.orientation),
        doc_unwarping_model_dir=str(tiny_models.unwarping),
        use_doc_orientation_classify=True,
        use_doc_unwarping=True,
    )
    yield pipeline
    pipeline.close()


def read(pipeline: Any, pages: list[BgrPage], *, turn: bool = False, unwarp: bool = False) -> list[Any]:
    results = pipeline.predict(pages, use_doc_orientation_classify=turn, use_doc_unwarping=unwarp, use_queues=False)
    return list(results)


def contents(result: Any) -> list[tuple[str, str]]:
    return [(block.label, block.content) for block in result["parsing_res_list"]]


def detections(result: Any) -> list[tuple[str, list[int]]]:
    return [(box["label"], [round(float(c)) for c in box["coordinate"]]) for box in result["layout_det_res"]["boxes"]]


def expected(boxes: tuple[Box, ...], width: int = WIDTH, height: int = HEIGHT) -> list[tuple[str, list[int]]]:
    scale = (width, height, width, height)
    return [(b.label, [round(f * s) for f, s in zip(b.box, scale, strict=True)]) for b in boxes if b.score > 0]


LIGHT_CONTENTS = [
    ("doc_title", OCR_TEXT),
    ("text", OCR_TEXT),
    ("table", TABLE_HTML),
    ("display_formula", FORMULA_TEXT),
    ("image", ""),
    ("number", OCR_TEXT),
]


def test_a_light_page_is_read_as_scripted(pipeline: Any) -> None:
    (result,) = read(pipeline, [page(LIGHT)])
    assert contents(result) == LIGHT_CONTENTS


@pytest.mark.parametrize("version", ["v1", "v1.5"])
def test_the_models_serve_the_older_versions_too(tiny_models: TinyModels, version: str) -> None:
    pipeline = make_pipeline(tiny_models, version)
    try:
        (result,) = pipeline.predict([page(LIGHT)], use_queues=False)
        assert contents(result) == LIGHT_CONTENTS
    finally:
        pipeline.close()


def test_each_page_of_a_batch_gets_its_own_layout(pipeline: Any) -> None:
    pages = [page(DARK), page(LIGHT, (500, 400)), page(DARK, (300, 900)), page(LIGHT)]
    results = read(pipeline, pages)
    assert [detections(result) for result in results] == [
        expected(DARK_BOXES),
        expected(LIGHT_BOXES, 500, 400),
        expected(DARK_BOXES, 300, 900),
        expected(LIGHT_BOXES),
    ]


def test_the_table_of_a_dark_page_takes_the_figure_in(pipeline: Any) -> None:
    (result,) = read(pipeline, [page(DARK)])
    assert contents(result) == [("text", OCR_TEXT), ("text", OCR_TEXT), ("table", TABLE_HTML)]
    (light,) = read(pipeline, [page(LIGHT)])
    figures = [dict(detections(r))["image"] for r in (light, result)]
    assert figures[0] == figures[1] == [round(f * s) for f, s in zip(FIGURE, (WIDTH, HEIGHT) * 2, strict=True)]


@pytest.mark.parametrize(("quarter_turns", "angle"), [(0, 0), (1, 270), (2, 180), (3, 90)])
def test_a_turned_page_is_turned_upright(pipeline: Any, quarter_turns: int, angle: int) -> None:
    upright = page(LIGHT, headed=True)
    (result,) = read(pipeline, [np.ascontiguousarray(np.rot90(upright, quarter_turns))], turn=True)
    preprocessed = result["doc_preprocessor_res"]
    assert preprocessed["angle"] == angle
    assert preprocessed["output_img"].shape == upright.shape
    # The library turns about the corner of a pixel, not its centre: edges may be off by one pixel.
    differing = np.abs(preprocessed["output_img"].astype(int) - upright).max(axis=2) > 8
    assert differing.mean() < 0.02
    assert contents(result) == LIGHT_CONTENTS


@pytest.mark.parametrize("paper", [LIGHT, DARK])
def test_a_page_without_a_dark_edge_counts_as_upright(pipeline: Any, paper: tuple[int, int, int]) -> None:
    (result,) = read(pipeline, [page(paper, (800, 600))], turn=True)
    assert result["doc_preprocessor_res"]["angle"] == 0


def test_unwarping_returns_every_pixel_as_it_was(pipeline: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (333, 201, 3), dtype=np.uint8)
    (result,) = read(pipeline, [noise], unwarp=True)
    np.testing.assert_array_equal(result["doc_preprocessor_res"]["output_img"], noise)


def test_pages_may_come_from_several_threads_one_after_the_other(pipeline: Any) -> None:
    # With queues each call runs in threads of its own.
    for _ in range(3):
        (result,) = pipeline.predict([page(LIGHT)], use_doc_orientation_classify=True, use_queues=True)
        assert contents(result) == LIGHT_CONTENTS


def test_both_tokenizers_keep_text_that_is_not_in_the_script(tiny_models: TinyModels) -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    slow = sentencepiece.SentencePieceProcessor(model_file=str(tiny_models.vlm / "tokenizer.model"))
    fast = Tokenizer.from_file(str(tiny_models.vlm / "tokenizer.json"))
    text = "Ёж и №5 — «щука», 漢字\n"
    assert fast.encode(text).ids == slow.encode(text)
    assert fast.decode(fast.encode(text).ids) == slow.decode(slow.encode(text)) == text


def test_the_command_line_makes_random_models_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.tiny_paddleocr_vl", str(tmp_path), "--random"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    models = TinyModels(*(tmp_path / name for name in ("vlm", "layout", "orientation", "unwarping")))
    pipeline = make_pipeline(models, "v1.6")
    try:
        (result,) = pipeline.predict([page(LIGHT)], max_new_tokens=16, use_queues=False)
        assert dict(contents(result))["text"] not in ("", OCR_TEXT)
    finally:
        pipeline.close()
