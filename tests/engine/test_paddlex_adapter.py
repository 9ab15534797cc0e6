"""The adapter against the library: the same results, and a loud failure where the library's inside has changed."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from serve_app.document import PageContent
from serve_app.document.options import ParsingOptions, VlmExtraArgs
from serve_app.errors import ServiceError
from serve_app.recognition.engines.engine import EngineLoadError, PageTask
from serve_app.recognition.engines.paddleocr_vl import adapter, vlm_client
from serve_app.recognition.engines.paddleocr_vl.adapter import VERSIONS, check_versions
from serve_app.recognition.engines.paddleocr_vl.engine import PaddleOcrVlEngine
from tests.support.engines import read_whole
from tests.support.tiny_paddleocr_vl import TinyModels
from tests.support.vl_pages import (
    CHEAP,
    DARK,
    HEIGHT,
    LIGHT,
    WIDTH,
    BgrPage,
    figure_page,
    make_pipeline,
    make_task,
    page,
    tiny_settings,
    turned,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine(tiny_models: TinyModels) -> Iterator[PaddleOcrVlEngine]:
    engine = PaddleOcrVlEngine(tiny_settings(tiny_models), page_s=60, api_key=None)
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def library(tiny_models: TinyModels) -> Iterator[Any]:
    """The library as its users call it, untouched."""
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


def test_the_pinned_versions_are_the_ones_installed_and_required() -> None:
    assert {name: version(name) for name in VERSIONS} == VERSIONS, (
        "another version of the library is installed: look through adapter.py and vlm_client.py with its sources, "
        "run this file, then change VERSIONS"
    )
    requirements = (REPOSITORY / "requirements" / "paddleocr-vl.txt").read_text()
    assert {name: pinned for name, pinned in re.findall(r"^(\S+)==(\S+)", requirements, re.M) if name in VERSIONS} == (
        VERSIONS
    )
    check_versions()


def test_another_version_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "paddlex", "3.0.1")
    with pytest.raises(EngineLoadError) as refused:
        check_versions()
    assert str(refused.value) == f"paddlex {version('paddlex')} is installed, but this service requires 3.0.1"


def test_a_missing_package_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "paddleocr-of-nobody", "1")
    with pytest.raises(EngineLoadError) as refused:
        check_versions()
    assert str(refused.value) == (
        "the package paddleocr-of-nobody is not installed: install the extra 'paddleocr-vl', and paddlepaddle"
    )


SETTINGS_OPTIONS = (
    "use_doc_orientation_classify use_doc_unwarping use_layout_detection use_chart_recognition use_seal_recognition "
    "use_ocr_for_image_block format_block_content merge_layout_blocks markdown_ignore_labels"
)
LAYOUT_OPTIONS = "threshold layout_nms layout_unclip_ratio layout_merge_bboxes_mode layout_shape_mode"
PIPELINE = "paddlex.inference.pipelines.paddleocr_vl.pipeline:_PaddleOCRVLPipeline"
RESULT = "paddlex.inference.pipelines.paddleocr_vl.result:PaddleOCRVLResult"
GENERATION = "paddlex.inference.models.common.transformers.generation"

# What of the library -> its parameters that are used, in the library's order, and where.
SHAPES = [
    (f"{PIPELINE}.get_model_settings", f"self {SETTINGS_OPTIONS}", "StagedPipeline.analyze"),
    (
        f"{PIPELINE}.get_layout_parsing_results",
        "self images layout_det_results imgs_in_doc use_chart_recognition use_seal_recognition "
        "use_ocr_for_image_block vlm_kwargs merge_layout_blocks layout_shape_mode",
        "StagedPipeline.parse",
    ),
    ("paddlex.inference.pipelines.layout_parsing.utils:gather_imgs", "original_img layout_det_objs", "analyze"),
    (
        "paddlex.inference.pipelines.paddleocr_vl.uilts:truncate_repetitive_content",
        "content line_threshold char_threshold min_len min_count",
        "_CheckedVlm.predict",
    ),
    ("paddlex.inference.pipelines.base:BasePipeline.create_model", "self config kwargs", "_log_model_loads"),
    (f"{RESULT}._to_markdown", "self pretty show_formula_number", "page_conversion.page_content"),
    (f"{GENERATION}.stopping_criteria:MaxTimeCriteria", "max_time initial_timestamp", "BoundedGeneration.generate"),
    (f"{GENERATION}.stopping_criteria:StoppingCriteriaList.__call__", "self input_ids scores kwargs", "generate"),
    ("paddlex.inference.models.common.genai:GenAIClient.create_chat_completion", "self messages return_future kwargs",
     "VlmClient.create_chat_completion"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "parameters", "user"), SHAPES, ids=[what.rpartition(":")[2] for what, _, _ in SHAPES])
@pytest.mark.usefixtures("library")  # its modules can be imported in the order of its own only
def test_the_library_takes_what_it_is_given(what: str, parameters: str, user: str) -> None:
    module, _, names = what.partition(":")
    found: Any = import_module(module)
    for name in names.split("."):
        assert hasattr(found, name), f"{what} is gone: look at {user}"
        found = getattr(found, name)
    signature = list(inspect.signature(found).parameters)
    assert signature == parameters.split(), f"the parameters of {what} have changed: look at {user}"


def test_the_layout_model_takes_the_options_of_a_request(library: Any) -> None:
    model = inner(library).layout_det_model
    parameters = inspect.signature(type(model).process).parameters
    missing = {*LAYOUT_OPTIONS.split(), "filter_overlap_boxes"} - parameters.keys()
    assert not missing, f"the layout model takes no {missing}: look at StagedPipeline.analyze"
    assert callable(model) and model.config["label_list"], "look at StagedPipeline.labels"
    assert model.batch_sampler.batch_size >= 1, "look at StagedPipeline.__init__"


def test_predict_knows_every_option_of_a_request_and_the_adapter_every_option_of_predict(library: Any) -> None:
    known = set(inspect.signature(type(inner(library)).predict).parameters) - {"self", "input", "use_queues", "kwargs"}
    ours = set(ParsingOptions.model_fields) - {"prettify_markdown", "show_formula_number"}
    assert ours == known, "the options of the library's predict have changed: look at options.py and engine.py"


def test_pixels_of_single_kinds_of_blocks_are_what_the_library_takes() -> None:
    found: Any = import_module(PIPELINE.partition(":")[0])
    source = inspect.getsource(found._PaddleOCRVLPipeline.get_layout_parsing_results)
    taken = set(re.findall(r'vlm_kwargs\.pop\("(\w+_pixels)"', source)) - {"min_pixels", "max_pixels"}
    assert taken == set(VlmExtraArgs.model_fields), "look at VlmExtraArgs in options.py"


def test_repetitions_are_cut_where_the_adapter_looks_for_them() -> None:
    found: Any = import_module(PIPELINE.partition(":")[0])
    source = inspect.getsource(found._PaddleOCRVLPipeline._paddleocr_vl_assemble_parsing_results)
    assert 'min_count = 5000 if block_label == "table" else 50' in source, "look at REPETITION_LEAST in adapter.py"
    assert (adapter.REPETITION_LEAST["Table Recognition:"], adapter.REPETITION_LEAST_ELSEWHERE) == (5000, 50)


def test_generation_stops_by_the_criteria_among_its_inputs() -> None:
    mixin: Any = import_module(f"{GENERATION}.utils").GenerationMixin
    assert "stopping_criteria" in inspect.signature(inspect.unwrap(mixin.generate)).parameters, (
        "generate takes no stopping criteria any more: look at BoundedGeneration"
    )
    model: Any = import_module("paddlex.inference.models.doc_vlm.modeling").PaddleOCRVLForConditionalGeneration
    assert list(inspect.signature(model.generate).parameters) == ["self", "inputs", "kwargs"], "look at its generate"


def test_the_native_model_is_where_the_adapter_takes_hold_of_it(library: Any) -> None:
    predictor = inner(library).vl_rec_model
    assert callable(predictor.infer.generate), "look at BoundedGeneration, and where engine.py puts it"
    end = predictor.infer.generation_config.eos_token_id
    assert isinstance(end, int | list), "look at BoundedGeneration.generate"


def test_the_prompts_are_those_of_the_library(library: Any) -> None:
    source = inspect.getsource(inspect.unwrap(type(inner(library)).predict))
    told = re.search(r"prompt_label\.lower\(\) in \[([^\]]*)\]", source)
    assert told, "look at prompt_label in options.py, and at StagedPipeline.whole_page"
    ours = get_args(get_args(ParsingOptions.model_fields["prompt_label"].annotation)[0])
    assert set(re.findall(r"\w+", told[1])) == set(ours), "look at prompt_label in options.py"


class Requests:
    """Stands where the library's client does and keeps what it is given."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def create_chat_completion(self, *arguments: Any, **options: Any) -> Future[Any]:
        self.calls.append((arguments, options))
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="text"))]))
        return future


@pytest.mark.parametrize("backend", ["vllm-server", "sglang-server", "fastdeploy-server", "llama-cpp-server"])
@pytest.mark.filterwarnings("ignore:.*does not support `m.._pixels`")
def test_the_client_is_called_as_ours_can_be(backend: str) -> None:
    predictor_class: Any = import_module("paddlex.inference.models.doc_vlm.predictor").DocVLMGenAIClientPredictor
    look = "the library calls its client otherwise: look at VlmClient.create_chat_completion"
    predictor = predictor_class(
        model_name="PaddleOCR-VL-1.6-0.9B",
        engine_config={"backend": backend, "server_url": "http://127.0.0.1:9/v1"},
    )
    predictor.genai_client.close()
    requests = Requests(backend)
    predictor._genai_client = requests
    (answer,) = predictor.predict(
        [{"image": np.zeros((30, 40, 3), np.uint8), "query": "OCR:"}],
        max_new_tokens=77,
        repetition_penalty=1.1,
        min_pixels=100,
        max_pixels=200,
        skip_special_tokens=True,
    )
    assert answer["result"] == "text", look
    ((arguments, options),) = requests.calls
    inspect.signature(vlm_client.VlmClient.create_chat_completion).bind(None, *arguments, **options)
    assert options.pop("return_future") is True, look
    assert options.pop("timeout") > 0, look
    limit = "max_tokens" if backend == "llama-cpp-server" else "max_completion_tokens"
    assert options.pop(limit) == 77, look
    assert options["extra_body"]["repetition_penalty"] == 1.1, look
    # All else goes into the body of the request as it is.
    assert json.loads(json.dumps(options)).keys() <= {"temperature", "top_p", "extra_body"}, look
    (message,) = arguments[0]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"], look


def inner(library: Any) -> Any:
    assert hasattr(library.paddlex_pipeline, "_pipeline"), "look at StagedPipeline.__init__"
    return library.paddlex_pipeline._pipeline


def test_the_staged_result_has_the_fields_of_the_librarys_own(library: Any, engine: PaddleOcrVlEngine) -> None:
    (own,) = library.predict(
        [page(LIGHT)], use_queues=False, use_doc_orientation_classify=False, use_doc_unwarping=False
    )
    (prepared,) = engine.analyze([make_task(page(LIGHT))])
    assert not isinstance(prepared, ServiceError)
    results = []
    assert engine._pipeline is not None
    parse = engine._pipeline.parse

    def keep(*arguments: Any) -> Any:
        results.append(parse(*arguments))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._pipeline, "parse", keep)
        engine.read(prepared)
    look = "look at StagedPipeline.parse"
    assert list(results[0]) == list(own), look
    same_kinds = {name: (type(results[0][name]), type(own[name])) for name in own}
    assert all(ours is theirs for ours, theirs in same_kinds.values()), (look, same_kinds)


# Options as a request has them, and as the library takes them where that is otherwise: classes go by number there.
OPTION_SETS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"use_chart_recognition": True, "use_seal_recognition": True, "use_ocr_for_image_block": True}, {}),
    ({"format_block_content": True, "merge_layout_blocks": False}, {}),
    ({"layout_shape_mode": "rect", "layout_nms": True, "layout_unclip_ratio": (1.1, 1.2)}, {}),
    ({"layout_shape_mode": "poly", "layout_merge_bboxes_mode": {"table": "small", "image": "union"}},
     {"layout_merge_bboxes_mode": {21: "small", 14: "union"}}),
    ({"layout_threshold": 0.915}, {}),
    ({"layout_threshold": {"text": 0.935, "14": 0.99}}, {"layout_threshold": {22: 0.935, 14: 0.99}}),
    ({"markdown_ignore_labels": ("table", "doc_title")}, {"markdown_ignore_labels": ["table", "doc_title"]}),
    ({"prettify_markdown": True, "show_formula_number": True, "max_new_tokens": 100}, {}),
    ({"vlm_extra_args": {"ocr_max_pixels": 30_000}}, {}),
]  # fmt: skip
WHOLE_PAGE = [
    {"use_layout_detection": False, "prompt_label": label}
    for label in (None, "ocr", "formula", "table", "chart", "seal", "spotting")
]


# Small pictures of blocks: seconds less for the same ways through the code.


def names(value: Any) -> str:
    return json.dumps(value)[:70]


def predict(library: Any, pages: Sequence[BgrPage], options: dict[str, Any]) -> list[dict[str, Any]]:
    """The library's own results: `pruned`, `markdown` and the `figures` that it links."""
    options = {"use_doc_orientation_classify": False, "use_doc_unwarping": False, **options}
    pretty, numbers = options.pop("prettify_markdown", False), options.pop("show_formula_number", False)
    from paddlex.inference.serving.basic_serving._pipeline_apps._common.common import prune_result

    results = []
    for own in library.predict([each.copy() for each in pages], use_queues=False, **options):
        pruned = prune_result(own.json["res"])
        markdown = own._to_markdown(pretty=pretty, show_formula_number=numbers)
        figures = {path: picture.size for path, picture in markdown["markdown_images"].items()}
        results.append({"pruned": pruned, "markdown": markdown["markdown_texts"], "figures": figures})
    return results


def pruned_of(reading: PageContent) -> dict[str, Any]:
    assert reading.native is not None
    return reading.native.result


def read(engine: PaddleOcrVlEngine, *tasks: PageTask) -> list[PageContent]:
    outcomes = read_whole(engine, tasks)
    readings = [outcome for outcome in outcomes if isinstance(outcome, PageContent)]
    assert len(readings) == len(outcomes), outcomes
    return readings


def compare(library: Any, engine: PaddleOcrVlEngine, pixels: BgrPage, ours: dict[str, Any], theirs: Any) -> PageContent:
    (own,) = predict(library, [pixels], CHEAP | ours | theirs)
    (reading,) = read(engine, make_task(pixels, **(CHEAP | ours)))
    assert pruned_of(reading) == own["pruned"]
    assert reading.native is not None and reading.native.markdown == own["markdown"]
    assert reading.page.markdown == own["markdown"].strip()
    assert [figure.path for figure in reading.figures] == list(own["figures"])
    assert not reading.page.degraded
    return reading


@pytest.fixture(scope="module")
def by_default(engine: PaddleOcrVlEngine) -> PageContent:
    """The light page, read without options."""
    (reading,) = read(engine, make_task(figure_page(LIGHT), **CHEAP))
    return reading


@pytest.mark.parametrize("paper", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("options", "library_options"), OPTION_SETS, ids=[names(ours) for ours, _ in OPTION_SETS])
def test_a_page_is_read_as_the_library_itself_reads_it(
    library: Any,
    engine: PaddleOcrVlEngine,
    by_default: PageContent,
    paper: tuple[int, int, int],
    options: dict[str, Any],
    library_options: dict[str, Any],
) -> None:
    reading = compare(library, engine, figure_page(paper), options, library_options)
    if paper == LIGHT and "vlm_extra_args" not in options:  # pixels change nothing in scripted answers
        # Options without effect would prove nothing.
        as_by_default = (pruned_of(by_default), by_default.page) == (pruned_of(reading), reading.page)
        assert as_by_default == (not options)


@pytest.mark.parametrize("options", [{}, {"use_doc_unwarping": True}, {"layout_shape_mode": "rect"}], ids=names)
def test_a_turned_page_is_read_as_the_library_itself_reads_it(
    library: Any, engine: PaddleOcrVlEngine, options: dict[str, Any]
) -> None:
    options = {**options, "use_doc_orientation_classify": True}
    reading = compare(library, engine, turned(), options, {})
    # The library's own form is of the upright page, ours of the page as it came.
    assert (reading.page.rotation, reading.page.width, reading.page.height) == (270, HEIGHT, WIDTH)


def test_a_page_is_not_turned_unless_that_is_asked_for(library: Any, engine: PaddleOcrVlEngine) -> None:
    reading = compare(library, engine, turned(), {}, {})
    assert (reading.page.rotation, reading.page.width, reading.page.height) == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("options", WHOLE_PAGE, ids=names)
def test_a_page_without_layout_is_read_as_the_library_itself_reads_it(
    library: Any, engine: PaddleOcrVlEngine, options: dict[str, Any]
) -> None:
    options = {**options, "use_doc_orientation_classify": True}
    reading = compare(library, engine, turned((150, 200)), options, {})
    (block,) = reading.page.blocks
    assert block.label == (options["prompt_label"] or "ocr") and block.text
    assert block.bbox == (0, 0, 200, 150)


def test_a_figure_in_the_table_of_one_page_takes_nothing_from_another_page(
    library: Any, engine: PaddleOcrVlEngine
) -> None:
    dark, light = figure_page(DARK), figure_page(LIGHT)
    (alone,) = predict(library, [light], CHEAP)
    (_, beside) = predict(library, [dark, light], CHEAP)
    ((path, _),) = alone["figures"].items()
    assert path in alone["markdown"]
    assert path not in beside["markdown"] and len(beside["pruned"]["parsing_res_list"]) == 5, (
        "the library has mended this: its pages no longer share state, so adapter.py could be simpler"
    )

    a, b = make_task(dark, 1, **CHEAP), make_task(light, 2, **CHEAP)
    (a_alone,) = read(engine, a)
    (b_alone,) = read(engine, b)
    assert pruned_of(b_alone) == alone["pruned"]
    assert b_alone.page.blocks[4].figure == path and path in b_alone.page.markdown
    assert read(engine, a, b) == [a_alone, b_alone]
    assert read(engine, b, a) == [b_alone, a_alone]
    assert read(engine, b, a, a, b, b) == [b_alone, a_alone, a_alone, b_alone, b_alone]
