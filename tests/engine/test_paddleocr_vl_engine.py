"""The engine with tiny models: what a page comes out as, its limits, and its neighbours' peace."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.document import Page, PageContent
from serve_app.errors import InvalidField, PageTimeout, RecognitionFailed, ServiceError
from serve_app.recognition.engines import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.adapter import BoundedGeneration, StagedPipeline
from serve_app.recognition.engines.paddleocr_vl.budget import page_budget
from serve_app.recognition.engines.paddleocr_vl.engine import PaddleOcrVlEngine
from serve_app.settings import VlmServerSettings
from tests.support.engines import read_whole
from tests.support.tiny_paddleocr_vl import FIGURE, FORMULA_TEXT, LABELS, LIGHT_BOXES, OCR_TEXT, TABLE_HTML, TinyModels
from tests.support.vl_pages import (
    CHEAP,
    DARK,
    HEIGHT,
    LIGHT,
    WIDTH,
    BgrPage,
    figure_page,
    make_task,
    page,
    tiny_settings,
    turned,
)
from tests.support.vlm_server import VlmServer

REPOSITORY = Path(__file__).parents[2]
TOKENS = 7  # of OCR_TEXT, with the one that ends it


@pytest.fixture(scope="module")
def engine(tiny_models: TinyModels) -> Iterator[PaddleOcrVlEngine]:
    engine = PaddleOcrVlEngine(tiny_settings(tiny_models), page_s=60, api_key=None)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture
def change(engine: PaddleOcrVlEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes settings of the engine for one test."""

    def change(*, page_s: float = 60, **settings: Any) -> None:
        monkeypatch.setattr(engine, "_page_s", page_s)
        monkeypatch.setattr(engine, "_settings", engine._settings.model_copy(update=settings))

    return change


def read(engine: PaddleOcrVlEngine, pixels: BgrPage | None = None, **options: Any) -> PageContent:
    task = make_task(figure_page(LIGHT) if pixels is None else pixels, **(CHEAP | options))
    (reading,) = read_whole(engine, [task])
    assert isinstance(reading, PageContent), reading
    return reading


def warnings_of(page: Page) -> dict[str, str]:
    assert page.degraded == bool(page.warnings)
    return {warning.code: warning.message for warning in page.warnings}


def scaled(box: tuple[float, ...], width: int = WIDTH, height: int = HEIGHT) -> tuple[int, ...]:
    return tuple(round(f * s) for f, s in zip(box, (width, height) * 2, strict=True))


def test_what_it_says_of_itself(engine: PaddleOcrVlEngine) -> None:
    assert (engine.name, engine.version) == ("paddleocr-vl", "3.7.0 (v1.6)")
    assert (engine.max_batch, engine.pages_at_once) == (8, 1)
    assert (engine.unavailable(), engine.vlm_server(), engine.gpu_memory_mb()) == (None, None, None)


def test_russian_and_english_text_comes_out_exactly(engine: PaddleOcrVlEngine) -> None:
    found = read(engine).page
    table = "Товар\tPrice\nЧай\t3.50"
    assert found.text == "\n\n".join([OCR_TEXT, OCR_TEXT, table, FORMULA_TEXT.strip(), OCR_TEXT])
    assert found.markdown.startswith(f"# {OCR_TEXT}\n\n{OCR_TEXT}\n\n")
    assert TABLE_HTML in found.markdown
    assert (found.number, found.width, found.height, found.dpi, found.rotation) == (1, WIDTH, HEIGHT, 200, 0)
    assert warnings_of(found) == {}


def test_each_block_has_its_kind_place_outline_order_and_group(engine: PaddleOcrVlEngine) -> None:
    blocks = read(engine).page.blocks
    assert [(block.label, block.bbox) for block in blocks] == [(box.label, scaled(box.box)) for box in LIGHT_BOXES]
    assert [(block.order, block.group) for block in blocks] == [(n, n) for n in range(6)]
    for block in blocks:
        left, top, right, bottom = block.bbox
        assert block.polygon is not None
        assert sorted(block.polygon) == sorted([(left, top), (right, top), (right, bottom), (left, bottom)])
    assert [block.content for block in blocks] == [None, None, TABLE_HTML, None, None, None]


def test_figures_are_jpegs_of_their_boxes_size_and_colours(engine: PaddleOcrVlEngine) -> None:
    reading = read(engine)
    (figure,) = reading.figures
    (block,) = [block for block in reading.page.blocks if block.label == "image"]
    assert block.figure == figure.path and f"({figure.path})" in reading.page.markdown
    assert block.bbox == scaled(FIGURE)
    left, top, right, bottom = block.bbox
    with Image.open(io.BytesIO(figure.jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (right - left, bottom - top))
        middle = np.asarray(picture.convert("RGB"))[(bottom - top) // 2, (right - left) // 2].astype(int)
    assert np.abs(middle - (220, 180, 30)).max() < 12  # RGB of what figure_page painted as BGR


def test_a_reading_travels_between_processes_small_and_without_pixels(engine: PaddleOcrVlEngine) -> None:
    large = np.random.default_rng(0).integers(150, 256, (2000, 1500, 3), dtype=np.uint8)  # cannot be compressed
    left, top, right, bottom = scaled(FIGURE, 1500, 2000)
    large[top:bottom, left:right] = 200
    reading = read(engine, large)
    sent = pickle.dumps(reading)
    assert len(sent) < 100_000
    assert (
        b"numpy" not in sent
        and b"PIL" not in sent
        and b"paddle" not in sent.replace(b"paddleocr", b"").replace(b"\x8c\x07paddlex", b"")
    )
    assert pickle.loads(sent) == reading


def test_a_turned_page_says_how_it_was_turned(engine: PaddleOcrVlEngine) -> None:
    found = read(engine, turned(), use_doc_orientation_classify=True).page
    assert (found.rotation, found.width, found.height) == (270, HEIGHT, WIDTH)
    left, top, right, bottom = scaled(LIGHT_BOXES[0].box)
    assert found.blocks[0].bbox == (top, WIDTH - right, bottom, WIDTH - left), "where it is on the page as it came"


def test_blocks_stop_at_the_tokens_that_a_request_allows(engine: PaddleOcrVlEngine) -> None:
    found = read(engine, max_new_tokens=3).page
    assert found.blocks[1].text == "Съешь ещё этих мягких французских булок,"
    assert warnings_of(found) == {"block_cut": "4 block(s) reached the limit of tokens and are cut."}
    assert warnings_of(read(engine, max_new_tokens=TOKENS).page) == {}  # the last token is the end


@pytest.mark.parametrize("asked", [None, 100, 4096])
def test_a_request_does_not_get_more_tokens_than_the_service_allows(
    engine: PaddleOcrVlEngine, change: Callable[..., None], asked: int | None
) -> None:
    change(max_new_tokens=2)
    found = read(engine, max_new_tokens=asked).page
    assert found.blocks[1].text == "Съешь ещё этих мягких"
    assert set(warnings_of(found)) == {"block_cut"}


def test_a_page_stops_at_its_tokens_and_keeps_what_it_has(
    engine: PaddleOcrVlEngine, change: Callable[..., None]
) -> None:
    change(page_tokens=TOKENS + 1)
    found = read(engine).page
    assert [block.text for block in found.blocks] == [OCR_TEXT, "Съешь ещё", "", "", "", ""]
    assert [block.label for block in found.blocks] == [box.label for box in LIGHT_BOXES]
    assert warnings_of(found) == {
        "page_out_of_tokens": "The page ran out of tokens: 3 block(s) are missing.",
        "block_cut": "1 block(s) reached the limit of tokens and are cut.",
    }


class Slow:
    """Stands before the VLM: calls `late` before each token."""

    def __init__(self, model: Any, late: Callable[[], None]) -> None:
        self.model = model
        self.late = late

    def __enter__(self) -> Slow:
        self.hook = self.model.register_forward_pre_hook(lambda layer, inputs: self.late())
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def vlm_of(engine: PaddleOcrVlEngine) -> Any:
    assert engine._pipeline is not None
    return engine._pipeline.vlm.infer._model


def test_a_block_ends_where_the_pages_time_does(engine: PaddleOcrVlEngine, change: Callable[..., None]) -> None:
    change(page_s=0.5)
    tokens = 0

    def late() -> None:
        nonlocal tokens
        tokens += 1
        if tokens == 3:
            time.sleep(page_budget.get().left_s + 0.01)

    with Slow(vlm_of(engine), late):
        found = read(engine).page
    assert tokens <= 3
    first, *others = [block.text for block in found.blocks]
    assert first and OCR_TEXT.startswith(first) and first != OCR_TEXT
    assert others == [""] * 5
    assert warnings_of(found) == {"page_out_of_time": "The page ran out of time: 5 block(s) are missing or cut."}


def test_what_was_read_in_time_is_kept(engine: PaddleOcrVlEngine) -> None:
    tokens = 0

    def late() -> None:
        nonlocal tokens
        tokens += 1
        if tokens == 2 * TOKENS:  # while the second block ends
            page_budget.get()._deadline = time.monotonic()

    with Slow(vlm_of(engine), late):
        found = read(engine).page
    assert [block.text for block in found.blocks] == [OCR_TEXT, OCR_TEXT, "", "", "", ""]
    assert warnings_of(found) == {"page_out_of_time": "The page ran out of time: 3 block(s) are missing or cut."}


def test_a_page_of_which_nothing_was_read_in_time_is_an_error(
    engine: PaddleOcrVlEngine, change: Callable[..., None]
) -> None:
    change(page_s=1e-6)
    (outcome,) = read_whole(engine, [make_task(page(LIGHT))])
    assert isinstance(outcome, PageTimeout)


def test_a_page_without_text_needs_no_time(engine: PaddleOcrVlEngine, change: Callable[..., None]) -> None:
    change(page_s=1e-6)
    found = read(engine, layout_threshold={label: 1.0 for label in LABELS if label != "image"}).page
    assert [block.label for block in found.blocks] == ["image"] and not found.degraded


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3)])
def test_one_bad_page_fails_alone(engine: PaddleOcrVlEngine, shape: tuple[int, ...]) -> None:
    bad = make_task(np.zeros(shape, np.uint8), 2)
    good = [make_task(figure_page(paper), number, **CHEAP) for number, paper in ((1, LIGHT), (3, DARK))]
    expected = [read_whole(engine, [task])[0] for task in good]
    first, failed, last = read_whole(engine, [good[0], bad, good[1]])
    assert [first, last] == expected
    assert isinstance(failed, RecognitionFailed)


def test_pages_of_one_batch_keep_their_own_options(engine: PaddleOcrVlEngine) -> None:
    light = figure_page(LIGHT)
    option_sets: list[dict[str, Any]] = [
        {},
        {"layout_threshold": 0.92},
        {"layout_shape_mode": "rect"},
        {"use_layout_detection": False, "prompt_label": "table"},
        {"max_new_tokens": 1},
        {"markdown_ignore_labels": ["table"]},
        {},
    ]
    tasks = [make_task(light, number, **CHEAP, **options) for number, options in enumerate(option_sets, 1)]
    alone = [read_whole(engine, [task])[0] for task in tasks]
    assert len({pickle.dumps(each) for each in alone}) == len(tasks)
    assert read_whole(engine, tasks) == alone


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [
        (0.915, {"doc_title", "text", "table"}),
        ({"text": 0.94}, {"doc_title", "table", "display_formula", "image", "number"}),
        ({"22": 0.94, "number": 0.9}, {"doc_title", "table", "display_formula", "image"}),
        ({"chart": 0.99}, {box.label for box in LIGHT_BOXES}),
    ],
)
def test_thresholds_of_the_layout_go_by_label_and_by_number(
    engine: PaddleOcrVlEngine, threshold: Any, labels: set[str]
) -> None:
    assert {block.label for block in read(engine, layout_threshold=threshold).page.blocks} == labels


@pytest.mark.parametrize(
    "options",
    [
        {"layout_threshold": {"text": 0.5, "paragraph": 0.5}},
        {"layout_unclip_ratio": {"paragraph": (1, 1)}},
        {"layout_merge_bboxes_mode": {"paragraph": "large"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_class_that_the_layout_model_does_not_know_is_told_with_those_it_does(
    engine: PaddleOcrVlEngine, options: dict[str, Any]
) -> None:
    good = make_task(page(LIGHT), 2, **CHEAP)
    refused, other = read_whole(engine, [make_task(page(LIGHT), **options), good])
    assert isinstance(refused, InvalidField) and isinstance(other, PageContent)
    assert "no class paragraph;" in refused.message and ", ".join(LABELS) in refused.message


def test_a_class_number_beyond_the_last_one_is_refused(engine: PaddleOcrVlEngine) -> None:
    (refused,) = read_whole(engine, [make_task(page(LIGHT), layout_threshold={str(len(LABELS)): 0.5})])
    assert isinstance(refused, InvalidField)


def test_pages_read_at_once_by_a_server_get_each_their_own_result(tiny_models: TinyModels) -> None:
    sizes = [(300 + 20 * n, 500 - 10 * n) for n in range(24)]
    with VlmServer(tokens=10, token_ms=3) as server:
        settings = tiny_settings(tiny_models, vlm=VlmServerSettings(backend="vllm-server", url=server.url))
        engine = PaddleOcrVlEngine(settings, page_s=30, api_key=None)
        engine.load()
        try:
            assert engine.pages_at_once == 16
            analyzed = engine.analyze([make_task(page(LIGHT, size), n) for n, size in enumerate(sizes, 1)])
            prepared = [each for each in analyzed if not isinstance(each, ServiceError)]
            assert len(prepared) == len(sizes)
            start = threading.Barrier(engine.pages_at_once)

            def read_one(number: int) -> Any:
                if number < engine.pages_at_once:
                    start.wait(10)
                return engine.read(prepared[number])

            with ThreadPoolExecutor(engine.pages_at_once) as pool:
                readings = list(pool.map(read_one, range(len(sizes))))
            assert server.counters()["most_in_flight"] > len(LIGHT_BOXES)
        finally:
            engine.close()
    for number, ((width, height), reading) in enumerate(zip(sizes, readings, strict=True), 1):
        found = reading.page
        assert (found.number, found.width, found.height, found.degraded) == (number, width, height, False)
        expected = [scaled(box.box, width, height) for box in LIGHT_BOXES]
        difference = np.abs(np.array([block.bbox for block in found.blocks]) - expected)
        assert difference.max() <= 1  # float32 in the model
        assert [block.text for block in found.blocks][:2] == [OCR_TEXT, OCR_TEXT]


QUIET = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
from serve_app.recognition.engines.paddleocr_vl.engine import PaddleOcrVlEngine
from serve_app.settings import NativeVlmSettings, PaddleOcrVlSettings
from tests.support.engines import read_pages
from tests.support.vl_pages import LIGHT, make_task, page
settings = PaddleOcrVlSettings(
    device="cpu", download=False, layout_model_dir=sys.argv[1], vlm=NativeVlmSettings(model_dir=sys.argv[2])
)
engine = PaddleOcrVlEngine(settings, page_s=60, api_key=None)
engine.load()
(found,) = read_pages(engine, [make_task(page(LIGHT), min_pixels=5000, max_pixels=20000, temperature=0.5)])
assert len(found.blocks) == 6
engine.close()
"""


def test_the_library_keeps_quiet(tiny_models: TinyModels) -> None:
    # In a process of its own: what libraries say at their first import is part of it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLOG", "FLAGS"))}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tiny_models.layout), str(tiny_models.vlm)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2, lines
    for line, model in zip(lines, ("PP-DocLayoutV3", "PaddleOCR-VL-1.6-0.9B"), strict=True):
        name, level, message = line.split(" ", 2)
        assert (name, level) == ("ray.serve.paddleocr_vl", "INFO")
        words = message.split()
        assert words[:4] == ["model", model, "loaded", "in"]
        assert float(words[4]) < 60 and words[5] == "s," and float(words[6]) >= 0 and words[7:] == ["MB"]


def test_a_missing_model_is_told_at_once_where_nothing_may_be_fetched(
    tiny_models: TinyModels, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(tmp_path))
    engine = PaddleOcrVlEngine(tiny_settings(tiny_models, layout_model_dir=None), page_s=60, api_key=None)
    started = time.monotonic()
    with pytest.raises(EngineLoadError, match="PP-DocLayoutV3") as missing:
        engine.load()
    assert time.monotonic() - started < 3
    assert "models pull" in str(missing.value) and "layout_model_dir" in str(missing.value)
    engine.close()


def test_it_may_be_closed_without_having_been_loaded_and_twice(tiny_models: TinyModels) -> None:
    engine = PaddleOcrVlEngine(tiny_settings(tiny_models), page_s=60, api_key=None)
    engine.close()
    engine.close()
    assert engine.unavailable() is None


@pytest.mark.parametrize("stage", ["analyze", "parse"])
def test_an_engine_that_cannot_read_a_blank_page_has_not_loaded(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("CUDA error in the library's words")

    monkeypatch.setattr(StagedPipeline, stage, broken)
    with pytest.raises(EngineLoadError, match="could not read a blank page") as refused:
        PaddleOcrVlEngine(tiny_settings(tiny_models), page_s=30, api_key=None).load()
    assert "CUDA" not in str(refused.value)


def test_the_vlm_is_warm_before_the_engine_counts_as_loaded(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = []
    generate = BoundedGeneration.generate

    def noted(self: BoundedGeneration, *arguments: Any, **options: Any) -> Any:
        generated.append(options["max_new_tokens"])
        return generate(self, *arguments, **options)

    monkeypatch.setattr(BoundedGeneration, "generate", noted)
    made = PaddleOcrVlEngine(tiny_settings(tiny_models), page_s=30, api_key=None)
    made.load()
    made.close()
    assert generated and generated[-1] == 16  # the whole page as one block: a real layout finds none on it
