"""PaddleOCR-VL: runs the layout model on batches of pages, then reads each page independently."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.document import NativePage, PageContent, PageImage
from serve_app.document.options import ParsingOptions, RecognitionOptions, Restructuring
from serve_app.document.outline import BlockChange, PageOutline
from serve_app.errors import FieldError, InvalidField, PageTimeout, RecognitionFailed, ServiceError, VlmServerAway
from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask, VlmServerState
from serve_app.recognition.engines.paddleocr_vl import models
from serve_app.recognition.engines.paddleocr_vl.adapter import (
    VERSIONS,
    AnalyzedPage,
    BgrPixels,
    BoundedGeneration,
    StagedPipeline,
    check_versions,
    gpu_memory_mb,
)
from serve_app.recognition.engines.paddleocr_vl.budget import PageBudget, page_budget
from serve_app.recognition.engines.paddleocr_vl.outline_structure import restructure
from serve_app.recognition.engines.paddleocr_vl.paddlex_structure import restructure_pages
from serve_app.recognition.engines.paddleocr_vl.page_conversion import page_content
from serve_app.recognition.engines.paddleocr_vl.server_process import ServerProcess
from serve_app.recognition.engines.paddleocr_vl.vlm_client import AWAY_RETRY_AFTER_S, VlmClient
from serve_app.recognition.engines.paddleocr_vl.vlm_probe import DEFAULT_TIMING, VlmTiming
from serve_app.settings import NativeVlmSettings, PaddleOcrVlSettings, VlmServerSettings

log = logging.getLogger("ray.serve.paddleocr_vl")

_SETTINGS_OPTIONS = (
    "use_doc_orientation_classify",
    "use_doc_unwarping",
    "use_layout_detection",
    "use_chart_recognition",
    "use_seal_recognition",
    "use_ocr_for_image_block",
    "format_block_content",
    "merge_layout_blocks",
)
_FOLDER_ARGUMENTS = {
    "layout": "layout_detection_model_dir",
    "reading": "vl_rec_model_dir",
    "orientation": "doc_orientation_classify_model_dir",
    "unwarping": "doc_unwarping_model_dir",
}
_VLM_OPTIONS = ("repetition_penalty", "temperature", "top_p", "min_pixels", "max_pixels")


@dataclass(frozen=True)
class _Prepared:
    """A page between `analyze` and `read`."""

    number: int
    dpi: int
    page: AnalyzedPage
    options: ParsingOptions
    budget: PageBudget


class PaddleOcrVlEngine(Engine):
    name = "paddleocr-vl"

    def __init__(
        self,
        settings: PaddleOcrVlSettings,
        *,
        page_s: float,
        api_key: str | None,
        timing: VlmTiming = DEFAULT_TIMING,
    ) -> None:
        self._timing = timing
        self._settings = settings
        self._page_s = page_s
        self._api_key = api_key
        self._sharing = 1  # replicas that share the inference server
        self.max_batch = settings.max_batch
        self.pages_at_once = settings.pages_at_once
        self._pipeline: StagedPipeline | None = None
        self._process: ServerProcess | None = None
        self._url: str | None = None  # the URL of `_process`
        self._client: VlmClient | None = None

    def load(self) -> None:
        check_versions()
        models.ensure(self._settings)
        os.environ.setdefault("GLOG_minloglevel", "2")  # read when the library loads
        vlm = self._settings.vlm
        if isinstance(vlm, VlmServerSettings):
            self._connect(vlm)  # first, so that a launched server loads at the same time as the layout model
        arguments: dict[str, Any] = {
            "pipeline_version": self._settings.pipeline_version,
            "paddlex_config": self._settings.paddlex_config,
            "device": self._settings.device,
            "cpu_threads": max(1, math.ceil(self._settings.num_cpus)),
            "use_queues": False,  # they add half a second to each call
            **{
                _FOLDER_ARGUMENTS[model.purpose]: str(models.inspect_model(model).folder)
                for model in models.needed_models(self._settings)
            },
        }
        if self._settings.doc_preprocessor:
            arguments |= {"use_doc_orientation_classify": True, "use_doc_unwarping": True}
        if isinstance(vlm, VlmServerSettings):
            # The library's client is replaced below before it is used.
            arguments |= {"vl_rec_backend": vlm.backend, "vl_rec_server_url": vlm.url or "http://127.0.0.1/v1"}
        self._pipeline = StagedPipeline(arguments, layout_batch=self._settings.layout_batch)
        if isinstance(vlm, NativeVlmSettings):
            self._pipeline.vlm.infer = BoundedGeneration(self._pipeline.vlm.infer)
        else:
            self._pipeline.vlm._genai_client = self._client
        self.version = f"{VERSIONS['paddleocr']} ({self._settings.pipeline_version})"
        self._warm_up()
        if isinstance(vlm, VlmServerSettings) and self._client is not None:
            # Waits for the first probe, not until the server is available. It was started before the models were loaded.
            self._client.wait_until_probed(vlm.connect_s)

    def analyze(self, tasks: Sequence[PageTask]) -> list[_Prepared | ServiceError]:
        results: dict[int, _Prepared | ServiceError] = {}
        groups: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            groups.setdefault(_layout_key(task.options.parsing), []).append(index)
        for indexes in groups.values():
            group = [tasks[index] for index in indexes]
            results.update(zip(indexes, self._analyze_alike(group), strict=True))
        return [results[index] for index in range(len(tasks))]

    def read(self, analyzed: _Prepared) -> PageContent | ServiceError:
        assert self._pipeline is not None
        budget = analyzed.budget
        budget.start()
        page_budget.set(budget)
        try:
            result = self._pipeline.parse(analyzed.page, self._vlm_options(analyzed.options))
            warnings = budget.warnings()
            if budget.failure is not None:
                log.warning("page %d: blocks failed at the inference server: %s", analyzed.number, budget.failure)
            if warnings and not budget.read:
                return PageTimeout() if budget.ran_out_of_time() else RecognitionFailed()
            return page_content(result, analyzed.options, number=analyzed.number, dpi=analyzed.dpi, warnings=warnings)
        except ServiceError as error:
            return error
        except Exception:  # the library may raise anything; other pages must not be affected
            log.exception("paddleocr-vl failed on page %d", analyzed.number)
            return RecognitionFailed()

    def restructure(self, pages: Sequence[PageOutline], options: RecognitionOptions) -> list[BlockChange]:
        return restructure(pages, pretty=options.parsing.prettify_markdown)

    def restructure_pages(self, pages: Sequence[NativePage], options: Restructuring) -> list[NativePage]:
        return restructure_pages(pages, options)

    def abandon(self, analyzed: _Prepared) -> None:
        analyzed.budget.abandon()
        if self._client is not None:
            self._client.abandon(analyzed.budget)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.stop()
        if self._pipeline is not None and self._client is None:
            self._pipeline.close()
        self._client = self._process = self._pipeline = None

    def unavailable(self) -> ServiceError | None:
        state = self.vlm_server()
        return None if state is None or state.available else VlmServerAway(retry_after_s=AWAY_RETRY_AFTER_S)

    def vlm_server(self) -> VlmServerState | None:
        return self._client.state if self._client is not None else None

    def share_vlm_server(self, replicas: int) -> None:
        vlm = self._settings.vlm
        if isinstance(vlm, NativeVlmSettings) or vlm.launch is not None:
            return  # each replica has a VLM of its own
        if replicas != self._sharing and vlm.concurrency < replicas:
            log.warning(
                "concurrency is %d for %d replicas: each replica still sends one block at a time",
                vlm.concurrency,
                replicas,
            )
        self._sharing = replicas
        # Also if it is the same number: a client that is being created meanwhile may have the one before.
        if self._client is not None:
            self._client.resize(self._concurrency(vlm))

    def gpu_memory_mb(self) -> float | None:
        if self._settings.device != "gpu":
            return None
        return gpu_memory_mb()

    def _connect(self, vlm: VlmServerSettings) -> None:
        if self._client is not None:  # created by an earlier, failed load
            return
        url = vlm.url
        if vlm.launch is not None:
            if self._process is None:
                self._process = ServerProcess(vlm.launch)
                self._url = self._process.start()
            url = self._url
        assert url is not None
        self._client = VlmClient(
            vlm, url=url, api_key=self._api_key, concurrency=self._concurrency(vlm), timing=self._timing
        )

    def _concurrency(self, vlm: VlmServerSettings) -> int:
        """Return how many blocks this replica may have in flight at the server."""
        return max(1, vlm.concurrency // self._sharing)

    def _warm_up(self) -> None:
        """Read a blank page, since the first page takes longer than later ones. Raises EngineLoadError."""
        blank = PageImage(np.full((1000, 800, 3), 255, np.uint8), number=0, dpi=100, rasterize_ms=0)
        # The layout model finds no blocks on a blank page. Reading the whole page as one block warms up the VLM as well.
        for options in (ParsingOptions(), ParsingOptions(use_layout_detection=False, max_new_tokens=16)):
            (result,) = self._analyze_alike([PageTask(blank, RecognitionOptions(parsing=options))])
            if isinstance(result, _Prepared) and self._client is None:
                read = self.read(result)
                if isinstance(read, ServiceError):
                    raise EngineLoadError(f"the models are loaded, but could not read a blank page: {read.message}")
            elif isinstance(result, ServiceError):
                raise EngineLoadError(f"the models are loaded, but could not read a blank page: {result.message}")

    def _analyze_alike(self, tasks: Sequence[PageTask]) -> list[_Prepared | ServiceError]:
        """Run the layout model once for pages with the same layout options."""
        assert self._pipeline is not None
        options = tasks[0].options.parsing
        try:
            layout = _layout_options(options, self._pipeline.labels)
        except ServiceError as error:
            return [error] * len(tasks)
        try:
            images = [_bgr(task.image) for task in tasks]
            settings = {name: getattr(options, name) for name in _SETTINGS_OPTIONS}
            settings["use_doc_orientation_classify"] = bool(options.use_doc_orientation_classify)
            settings["use_doc_unwarping"] = bool(options.use_doc_unwarping)
            settings["markdown_ignore_labels"] = (
                list(options.markdown_ignore_labels) if options.markdown_ignore_labels is not None else None
            )
            if options.use_layout_detection is False:
                label = options.prompt_label or "ocr"
                pages = [self._pipeline.whole_page(image, label, layout, settings) for image in images]
            else:
                pages = self._pipeline.analyze(images, layout, settings)
        except Exception:
            if len(tasks) == 1:
                log.exception("paddleocr-vl failed on the layout of page %d", tasks[0].image.number)
                return [RecognitionFailed()]
            # One page made the batch fail. Analyzed one by one, the other pages succeed.
            return [result for task in tasks for result in self._analyze_alike([task])]
        return [
            _Prepared(task.image.number, task.image.dpi, page, task.options.parsing, self._budget())
            for task, page in zip(tasks, pages, strict=True)
        ]

    def _budget(self) -> PageBudget:
        settings = self._settings
        return PageBudget(seconds=self._page_s, tokens=settings.page_tokens, block_tokens=settings.max_new_tokens)

    def _vlm_options(self, options: ParsingOptions) -> dict[str, Any]:
        chosen = {name: getattr(options, name) for name in _VLM_OPTIONS}
        chosen["max_new_tokens"] = min(
            options.max_new_tokens or self._settings.max_new_tokens, self._settings.max_new_tokens
        )
        if options.vlm_extra_args is not None:
            chosen |= options.vlm_extra_args.model_dump(exclude_none=True)
        return chosen


def _layout_key(options: ParsingOptions) -> str:
    """Return a key that is equal for pages that may share a run of the layout model."""
    return json.dumps(
        options.model_dump(
            include={*_SETTINGS_OPTIONS, "prompt_label", "markdown_ignore_labels", *_LAYOUT_OPTIONS}, mode="json"
        ),
        sort_keys=True,
    )


_LAYOUT_OPTIONS = (
    "layout_threshold",
    "layout_nms",
    "layout_unclip_ratio",
    "layout_merge_bboxes_mode",
    "layout_shape_mode",
)


def _layout_options(options: ParsingOptions, labels: Sequence[str]) -> dict[str, Any]:
    """Convert options to the layout model's: floats, and classes by number. Raises InvalidField."""
    return {
        "threshold": _by_number("layoutThreshold", options.layout_threshold, labels),
        "layout_nms": options.layout_nms,
        "layout_unclip_ratio": _by_number("layoutUnclipRatio", options.layout_unclip_ratio, labels),
        "layout_merge_bboxes_mode": _by_number("layoutMergeBboxesMode", options.layout_merge_bboxes_mode, labels),
        "layout_shape_mode": options.layout_shape_mode,
    }


def _by_number(option: str, value: Any, labels: Sequence[str]) -> Any:
    if not isinstance(value, dict):
        return value
    numbered = {}
    for name, setting in value.items():
        numbers = [number for number, label in enumerate(labels) if name in (label, str(number))]
        if not numbers:
            problem = f"the layout model has no class {name}; it has 0 to {len(labels) - 1}: {', '.join(labels)}"
            raise InvalidField(f"{option}: {problem}", fields=(FieldError(option, problem),))
        numbered.update(dict.fromkeys(numbers, setting))
    return numbered


def _bgr(image: PageImage) -> BgrPixels:
    import cv2  # comes with the library

    # NumPy's reversed copy would be the largest single cost of a page here.
    return cv2.cvtColor(image.pixels, cv2.COLOR_RGB2BGR)  # type: ignore[return-value]  # uint8 stays uint8
