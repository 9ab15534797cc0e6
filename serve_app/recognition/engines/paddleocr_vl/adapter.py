"""The only module that depends on paddlex's internals, as they are in the versions below.

PaddleX's `predict` does layout, recognition and assembly in one call. It is not thread-safe, and the pages of one call
share state: a figure within a table may be replaced by another page's figure with the same box. The stages can be
separated, however. The layout model takes a batch of pages, and one thread calls it. The rest,
`get_layout_parsing_results`, is called for one page at a time and then shares nothing with other pages.

A test compares the results with `predict` for a single page, and the shapes used here with the library's.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.budget import Shortfall, page_budget

log = logging.getLogger("ray.serve.paddleocr_vl")

VERSIONS = {"paddleocr": "3.7.0", "paddlex": "3.7.2"}
# Lengths in characters from which the library cuts repetitions; see its assembly of parsing results.
REPETITION_LEAST = {"Table Recognition:": 5000}
REPETITION_LEAST_ELSEWHERE = 50

# The densest pages have tables of about a thousand cells.
MAX_CELLS = 20_000
_CELL = re.compile("<[felux]cel>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

BgrPixels = npt.NDArray[np.uint8]


def check_versions() -> None:
    """Raise EngineLoadError if the library is missing or not in the version that this module supports."""
    for name, required in VERSIONS.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            raise EngineLoadError(
                f"the package {name} is not installed: install the extra 'paddleocr-vl', and paddlepaddle"
            ) from None
        if installed != required:
            raise EngineLoadError(f"{name} {installed} is installed, but this service requires {required}")


def gpu_memory_mb() -> float:
    """Return the GPU memory reserved by this process, in MB; 0 without a GPU."""
    import paddle

    return float(paddle.device.cuda.memory_reserved()) / 1e6 if paddle.device.is_compiled_with_cuda() else 0.0


@dataclass(frozen=True)
class AnalyzedPage:
    """A page after the layout model. `image` is BGR uint8, turned upright and unwarped if requested."""

    image: BgrPixels
    preprocessed: Any
    layout: Any
    figures: list[dict[str, Any]]
    model_settings: dict[str, Any]
    shape_mode: str


class StagedPipeline:
    """PaddleOCR-VL's pipeline in two stages: `analyze` takes many pages, `parse` takes one."""

    def __init__(self, arguments: Mapping[str, Any], *, layout_batch: int) -> None:
        """`arguments` are those of paddleocr.PaddleOCRVL. Logs one line per loaded model."""
        # Paddle's warnings about compilers and tensor copies are of no use to an operator.
        warnings.filterwarnings("ignore", module=r"paddle(x|ocr)?(\.|$)")
        from paddleocr import PaddleOCRVL

        logging.getLogger("paddlex").setLevel(logging.ERROR)
        with _log_model_loads():
            library_pipeline = PaddleOCRVL(**arguments)
        _isolate_random_state()
        self._pipeline: Any = library_pipeline.paddlex_pipeline._pipeline
        if self._pipeline.use_layout_detection:
            self._pipeline.layout_det_model.batch_sampler.batch_size = layout_batch
        self._pipeline.vl_rec_model = _CheckedVlm(self._pipeline.vl_rec_model)

    @property
    def vlm(self) -> Any:
        """The library's VLM predictor."""
        return self._pipeline.vl_rec_model.predictor

    @property
    def labels(self) -> list[str]:
        """The layout model's labels, indexed by class number."""
        model = getattr(self._pipeline, "layout_det_model", None)
        return list(model.config["label_list"]) if model is not None else []

    def analyze(
        self, images: Sequence[BgrPixels], layout_options: Mapping[str, Any], settings_options: Mapping[str, Any]
    ) -> list[AnalyzedPage]:
        """Turn pages upright, unwarp them and find their blocks. Not thread-safe.

        Images are BGR uint8 arrays (height, width, 3). `layout_options` go to the layout model,
        `settings_options` are those of the pipeline's `get_model_settings`.
        """
        from paddlex.inference.pipelines.layout_parsing.utils import gather_imgs

        settings: dict[str, Any] = self._pipeline.get_model_settings(**settings_options)
        shape_mode = layout_options["layout_shape_mode"]
        settings["return_layout_polygon_points"] = shape_mode != "rect"
        preprocessed = self._preprocess(images, settings, settings_options)
        upright = [result["output_img"] for result in preprocessed]
        layouts = list(self._pipeline.layout_det_model(upright, **layout_options, filter_overlap_boxes=False))
        _check_counts(images, preprocessed, layouts)
        return [
            AnalyzedPage(image, before, layout, gather_imgs(image, layout["boxes"]), settings, shape_mode)
            for image, before, layout in zip(upright, preprocessed, layouts, strict=True)
        ]

    def whole_page(
        self,
        image: BgrPixels,
        prompt_label: str,
        layout_options: Mapping[str, Any],
        settings_options: Mapping[str, Any],
    ) -> AnalyzedPage:
        """Make the whole page one block, to be read with the prompt of `prompt_label`. Does not run the layout model."""
        settings: dict[str, Any] = self._pipeline.get_model_settings(**settings_options)
        settings["return_layout_polygon_points"] = layout_options["layout_shape_mode"] != "rect"
        if prompt_label in ("chart", "seal"):
            settings[f"use_{prompt_label}_recognition"] = True
        (before,) = self._preprocess([image], settings, settings_options)
        upright = before["output_img"]
        height, width = upright.shape[:2]
        box = {"cls_id": 0, "label": prompt_label, "score": 1, "coordinate": [0, 0, width, height]}
        layout = {"input_path": None, "page_index": None, "boxes": [box]}
        return AnalyzedPage(upright, before, layout, [], settings, layout_options["layout_shape_mode"])

    def parse(self, page: AnalyzedPage, vlm_options: Mapping[str, Any]) -> Any:
        """Read the blocks of one page and assemble them. Returns paddlex's PaddleOCRVLResult.

        Thread-safe if the VLM runs on a server. `page_budget` must be set in this context.
        """
        from paddlex.inference.pipelines.paddleocr_vl.result import PaddleOCRVLResult

        settings = page.model_settings
        blocks, tables, spotting, figures = self._pipeline.get_layout_parsing_results(
            images=[page.image],
            layout_det_results=[page.layout],
            imgs_in_doc=[page.figures],
            use_chart_recognition=settings["use_chart_recognition"],
            use_seal_recognition=settings["use_seal_recognition"],
            use_ocr_for_image_block=settings["use_ocr_for_image_block"],
            vlm_kwargs=dict(vlm_options),
            merge_layout_blocks=settings["merge_layout_blocks"],
            layout_shape_mode=page.shape_mode,
        )
        _check_counts([page], blocks, tables, spotting, figures)
        return PaddleOCRVLResult(
            {
                "input_path": None,
                "page_index": None,
                "page_count": None,
                "width": page.image.shape[1],
                "height": page.image.shape[0],
                "doc_preprocessor_res": page.preprocessed,
                "layout_det_res": page.layout,
                "table_res_list": tables[0],
                "parsing_res_list": blocks[0],
                "spotting_res": spotting[0],
                "imgs_in_doc": figures[0],
                "model_settings": settings,
            }
        )

    def close(self) -> None:
        self._pipeline.close()

    def _preprocess(
        self, images: Sequence[BgrPixels], settings: Mapping[str, Any], options: Mapping[str, Any]
    ) -> list[Any]:
        """Return each image as `output_img`, turned upright and unwarped if requested."""
        if not settings["use_doc_preprocessor"]:
            return [{"output_img": image} for image in images]
        names = ("use_doc_orientation_classify", "use_doc_unwarping")
        return list(self._pipeline.doc_preprocessor_pipeline(list(images), **{name: options[name] for name in names}))


class _CheckedVlm:
    """Wraps the VLM's predictor, and notes cut tables and repetitive texts, which the library would cut silently."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor

    def predict(self, blocks: Sequence[dict[str, Any]], **options: Any) -> Iterator[Any]:
        from paddlex.inference.pipelines.paddleocr_vl.uilts import truncate_repetitive_content

        results = list(self.predictor.predict(list(blocks), **options))
        _check_counts(blocks, results)
        for block, result in zip(blocks, results, strict=True):
            text = result["result"] = _clean(result["result"] or "")
            if block["query"] == "Table Recognition:" and (bounded := _cut_table(text)) != text:
                text = result["result"] = bounded
                page_budget.get().note(Shortfall.CUT)
            least = REPETITION_LEAST.get(block["query"], REPETITION_LEAST_ELSEWHERE)
            if truncate_repetitive_content(text, min_count=least) != text:
                page_budget.get().note(Shortfall.REPEATS)
            yield result

    def close(self) -> None:
        self.predictor.close()


class BoundedGeneration:
    """Wraps the native VLM's `generate` and limits each block to its page's budget."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, inputs: Mapping[str, Any], **options: Any) -> Any:
        from paddlex.inference.models.common.transformers.generation.stopping_criteria import StoppingCriteriaList

        budget = page_budget.get()
        allowed = budget.next_block(options.get("max_new_tokens"))
        if not allowed:
            return [[]], None  # no tokens
        stop_in_time = StoppingCriteriaList([lambda ids, scores: budget.left_s <= 0])  # checked after each token
        ids, scores = self._model.generate(
            {**inputs, "stopping_criteria": stop_in_time}, **{**options, "max_new_tokens": allowed}
        )
        end = self._model.generation_config.eos_token_id
        budget.done(int(ids.shape[1]), cut=int(ids[0, -1]) not in (end if isinstance(end, list) else [end]))
        return ids, scores


def _isolate_random_state() -> None:
    """Make the library's use of Python's global random state safe for pages that are read concurrently.

    The library seeds it and draws placeholder tokens for the figures within a table. Draws of another page in between
    would change the VLM's input.
    """
    from paddlex.inference.pipelines.paddleocr_vl import pipeline as module

    original, lock = module.tokenize_figure_of_table, threading.Lock()
    if getattr(original, "is_isolated", False):
        return

    def tokenize_figure_of_table(*arguments: Any) -> Any:
        with lock:
            state = random.getstate()
            try:
                return original(*arguments)
            finally:
                random.setstate(state)

    tokenize_figure_of_table.is_isolated = True  # type: ignore[attr-defined]  # an engine may be loaded more than once
    module.tokenize_figure_of_table = tokenize_figure_of_table


@contextmanager
def _log_model_loads() -> Iterator[None]:
    """Log one line per model that the library loads, with the time and memory it took."""
    from paddlex.inference.pipelines.base import BasePipeline

    original = BasePipeline.create_model

    def create_model(self: Any, config: Any, **options: Any) -> Any:
        started, before, gpu_before = time.perf_counter(), psutil.Process().memory_info().rss, gpu_memory_mb()
        model = original(self, config, **options)
        if config.get("genai_config", {}).get("backend", "native") != "native":
            return model  # it runs on a server
        memory = f"{(psutil.Process().memory_info().rss - before) / 1e6:.0f} MB"
        if (gpu := gpu_memory_mb()) > 0:
            memory += f", {gpu - gpu_before:.0f} MB of GPU memory"
        log.info("model %s loaded in %.1f s, %s", config["model_name"], time.perf_counter() - started, memory)
        return model

    BasePipeline.create_model = create_model
    try:
        yield
    finally:
        BasePipeline.create_model = original


def _clean(text: str) -> str:
    """Remove control characters and lone surrogates, which not every output format can carry."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode())


def _cut_table(otsl: str) -> str:
    """Cut a table to the rows that fit in MAX_CELLS once padded to a rectangle, as the library pads it without a limit."""
    rows, widest = otsl.split("<nl>"), 1
    for number, row in enumerate(rows, start=1):
        widest = max(widest, len(_CELL.findall(row)))
        if number * widest > MAX_CELLS:
            return "<nl>".join(rows[: number - 1])
    return otsl


def _check_counts(first: Sequence[Any], *others: Sequence[Any]) -> None:
    # The library silently drops unusable items. Results would then be assigned to the wrong pages.
    if any(len(other) != len(first) for other in others):
        raise RuntimeError(f"a stage of the library got {len(first)} items and returned {list(map(len, others))}")
