"""The one place that knows the inside of paddlex, as it is in the versions below.

PaddleX's `predict` is one call for layout, recognition and assembly: it is not thread-safe, and pages of
one call share state (a figure within a table of one page takes a figure of the same box from another
page). Its stages are separable: the layout model takes a batch of pages; what follows,
`get_layout_parsing_results`, called with one page, shares nothing with any other. So pages meet in the
layout model only, which one thread calls, and the rest is done a page at a time.

A test compares this with `predict` of a single page, and the shapes used here with the library's.
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
# Repetitions are cut by the library from this many characters on; see its assembly of parsing results.
REPETITION_LEAST = {"Table Recognition:": 5000}
REPETITION_LEAST_ELSEWHERE = 50

# A table of the densest page has some thousand cells.
MAX_CELLS = 20_000
_CELL = re.compile("<[felux]cel>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

BgrPixels = npt.NDArray[np.uint8]


def check_versions() -> None:
    """Raises EngineLoadError where the library is not installed, or not the one this module was written for."""
    for name, wanted in VERSIONS.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            raise EngineLoadError(
                f"the package {name} is not installed: install the extra 'paddleocr-vl', and paddlepaddle"
            ) from None
        if installed != wanted:
            raise EngineLoadError(f"{name} {installed} is installed, but this service is written for {wanted}")


def gpu_memory_mb() -> float:
    """What this process holds of the GPU's memory, in MB; 0 without one."""
    import paddle

    return float(paddle.device.cuda.memory_reserved()) / 1e6 if paddle.device.is_compiled_with_cuda() else 0.0


@dataclass(frozen=True)
class AnalyzedPage:
    """A page after the layout model. `image` is BGR uint8, turned and flattened where that was asked for."""

    image: BgrPixels
    preprocessed: Any
    layout: Any
    figures: list[dict[str, Any]]
    model_settings: dict[str, Any]
    shape_mode: str


class StagedPipeline:
    """PaddleOCR-VL's pipeline in two stages: `analyze` for many pages, `parse` for one."""

    def __init__(self, arguments: Mapping[str, Any], *, layout_batch: int) -> None:
        """`arguments` are those of paddleocr.PaddleOCRVL. Logs a line for each model that is loaded."""
        # What Paddle has to say about compilers and copies of tensors concerns nobody who runs this service.
        warnings.filterwarnings("ignore", module=r"paddle(x|ocr)?(\.|$)")
        from paddleocr import PaddleOCRVL

        logging.getLogger("paddlex").setLevel(logging.ERROR)
        with _loading_logged():
            whole = PaddleOCRVL(**arguments)
        _share_no_random_numbers()
        self._pipeline: Any = whole.paddlex_pipeline._pipeline
        if self._pipeline.use_layout_detection:
            self._pipeline.layout_det_model.batch_sampler.batch_size = layout_batch
        self._pipeline.vl_rec_model = _WatchedVlm(self._pipeline.vl_rec_model)

    @property
    def vlm(self) -> Any:
        """The library's own predictor of the VLM."""
        return self._pipeline.vl_rec_model.predictor

    @property
    def labels(self) -> list[str]:
        """Labels of the layout model, by their number."""
        model = getattr(self._pipeline, "layout_det_model", None)
        return list(model.config["label_list"]) if model is not None else []

    def analyze(
        self, images: Sequence[BgrPixels], layout_options: Mapping[str, Any], settings_options: Mapping[str, Any]
    ) -> list[AnalyzedPage]:
        """Turn pages upright, flatten them and find their blocks. Not thread-safe.

        Images are BGR uint8 arrays (height, width, 3). `layout_options` go to the layout model,
        `settings_options` are those of the pipeline's `get_model_settings`.
        """
        from paddlex.inference.pipelines.layout_parsing.utils import gather_imgs

        settings: dict[str, Any] = self._pipeline.get_model_settings(**settings_options)
        shape_mode = layout_options["layout_shape_mode"]
        settings["return_layout_polygon_points"] = shape_mode != "rect"
        preprocessed = self._preprocess(images, settings, settings_options)
        upright = [each["output_img"] for each in preprocessed]
        layouts = list(self._pipeline.layout_det_model(upright, **layout_options, filter_overlap_boxes=False))
        _same_number(images, preprocessed, layouts)
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
        """A page as one block that is read with the prompt of `prompt_label`, without the layout model."""
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
        """Read the blocks of one page and put it together: paddlex's PaddleOCRVLResult.

        Thread-safe where the VLM is a server. `page_budget` must be set in this context.
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
        _same_number([page], blocks, tables, spotting, figures)
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
        """Each image as `output_img`, turned and flattened where that is asked for."""
        if not settings["use_doc_preprocessor"]:
            return [{"output_img": image} for image in images]
        names = ("use_doc_orientation_classify", "use_doc_unwarping")
        return list(self._pipeline.doc_preprocessor_pipeline(list(images), **{name: options[name] for name in names}))


class _WatchedVlm:
    """The VLM's predictor, with an eye on answers that repeat themselves: the library cuts them silently."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor

    def predict(self, blocks: Sequence[dict[str, Any]], **options: Any) -> Iterator[Any]:
        from paddlex.inference.pipelines.paddleocr_vl.uilts import truncate_repetitive_content

        answers = list(self.predictor.predict(list(blocks), **options))
        _same_number(blocks, answers)
        for block, answer in zip(blocks, answers, strict=True):
            text = answer["result"] = _clean(answer["result"] or "")
            if block["query"] == "Table Recognition:" and (whole := _bounded_table(text)) != text:
                text = answer["result"] = whole
                page_budget.get().note(Shortfall.CUT)
            least = REPETITION_LEAST.get(block["query"], REPETITION_LEAST_ELSEWHERE)
            if truncate_repetitive_content(text, min_count=least) != text:
                page_budget.get().note(Shortfall.REPEATS)
            yield answer

    def close(self) -> None:
        self.predictor.close()


class BoundedGeneration:
    """Stands before the native VLM's `generate` and holds each block to its page's budget."""

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
        stop_in_time = StoppingCriteriaList([lambda ids, scores: budget.left_s <= 0])  # asked after each token
        ids, scores = self._model.generate(
            {**inputs, "stopping_criteria": stop_in_time}, **{**options, "max_new_tokens": allowed}
        )
        end = self._model.generation_config.eos_token_id
        budget.done(int(ids.shape[1]), cut=int(ids[0, -1]) not in (end if isinstance(end, list) else [end]))
        return ids, scores


def _share_no_random_numbers() -> None:
    """Keep pages that are read at once apart where the library seeds the process's random numbers.

    It draws the tokens that stand for figures within a table from them; another page's drawing in
    between would change what the VLM gets to see.
    """
    from paddlex.inference.pipelines.paddleocr_vl import pipeline as module

    original, one_at_a_time = module.tokenize_figure_of_table, threading.Lock()
    if getattr(original, "is_apart", False):
        return

    def tokenize_figure_of_table(*arguments: Any) -> Any:
        with one_at_a_time:
            state = random.getstate()
            try:
                return original(*arguments)
            finally:
                random.setstate(state)

    tokenize_figure_of_table.is_apart = True  # type: ignore[attr-defined]  # an engine may be loaded twice
    module.tokenize_figure_of_table = tokenize_figure_of_table


@contextmanager
def _loading_logged() -> Iterator[None]:
    """One line for each model that the library loads, with its seconds and memory."""
    from paddlex.inference.pipelines.base import BasePipeline

    original = BasePipeline.create_model

    def create_model(self: Any, config: Any, **options: Any) -> Any:
        started, before, gpu_before = time.perf_counter(), psutil.Process().memory_info().rss, gpu_memory_mb()
        model = original(self, config, **options)
        if config.get("genai_config", {}).get("backend", "native") != "native":
            return model  # it is at a server
        memory = f"{(psutil.Process().memory_info().rss - before) / 1e6:.0f} MB"
        if (gpu := gpu_memory_mb()) > 0:
            memory += f", {gpu - gpu_before:.0f} MB of the GPU's"
        log.info("model %s loaded in %.1f s, %s", config["model_name"], time.perf_counter() - started, memory)
        return model

    BasePipeline.create_model = create_model
    try:
        yield
    finally:
        BasePipeline.create_model = original


def _clean(text: str) -> str:
    """Text that any surface can send on: no half of a surrogate pair, no control characters."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode())


def _bounded_table(otsl: str) -> str:
    """As many rows of a table as stay within MAX_CELLS: the library pads it to a rectangle, at any cost."""
    rows, widest = otsl.split("<nl>"), 1
    for number, row in enumerate(rows, start=1):
        widest = max(widest, len(_CELL.findall(row)))
        if number * widest > MAX_CELLS:
            return "<nl>".join(rows[: number - 1])
    return otsl


def _same_number(first: Sequence[Any], *others: Sequence[Any]) -> None:
    # The library drops what it cannot use without a word; results would then be somebody else's.
    if any(len(other) != len(first) for other in others):
        raise RuntimeError(f"{len(first)} went into a stage of the library, {list(map(len, others))} came out")
