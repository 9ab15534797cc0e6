"""Pages for the tiny models, and what the tests of the engine make of these models."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from serve_app.document import PageImage
from serve_app.document.options import ParsingOptions, RecognitionOptions
from serve_app.recognition.engines.engine import PageTask
from serve_app.settings import NativeVlmSettings, PaddleOcrVlSettings
from tests.support.tiny_paddleocr_vl import FIGURE, TinyModels

WIDTH, HEIGHT = 600, 800
LIGHT, DARK = (250, 250, 245), (20, 20, 30)
CHEAP = {"min_pixels": 5_000, "max_pixels": 20_000}

BgrPage = NDArray[np.uint8]


def page(paper: tuple[int, int, int], size: tuple[int, int] = (WIDTH, HEIGHT), *, headed: bool = False) -> BgrPage:
    """A BGR page with a few lines; `headed` adds a dark band along its top."""
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    ink = tuple(255 - level for level in paper)
    for y in range(size[1] // 4, size[1] * 3 // 4, 40):
        draw.line([(size[0] // 4, y), (size[0] * 3 // 4, y)], fill=ink, width=3)
    if headed:
        draw.rectangle([0, 0, size[0], size[1] // 10], fill=(20, 40, 90))
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def make_pipeline(models: TinyModels, version: str, **options: Any) -> Any:
    from paddleocr import PaddleOCRVL

    pipeline = PaddleOCRVL(
        pipeline_version=version,
        layout_detection_model_dir=str(models.layout),
        vl_rec_model_dir=str(models.vlm),
        device="cpu",
        cpu_threads=1,
        **options,
    )
    logging.getLogger("paddlex").setLevel(logging.ERROR)
    return pipeline


def tiny_settings(models: TinyModels, **settings: Any) -> PaddleOcrVlSettings:
    """Everything on the CPU, nothing fetched; the pages' turns can be asked for."""
    return PaddleOcrVlSettings(
        **{
            "device": "cpu",
            "download": False,
            "layout_model_dir": str(models.layout),
            "vlm": NativeVlmSettings(model_dir=str(models.vlm)),
            "doc_preprocessor": True,
            "orientation_model_dir": str(models.orientation),
            "unwarping_model_dir": str(models.unwarping),
            **settings,
        }
    )


def make_task(bgr: BgrPage, number: int = 1, **options: Any) -> PageTask:
    image = PageImage(np.ascontiguousarray(bgr[:, :, ::-1]), number, 200, 0.0)
    return PageTask(image, RecognitionOptions(parsing=ParsingOptions(**options)))


def figure_page(paper: tuple[int, int, int]) -> BgrPage:
    """A page with something to see at the place of the figure."""
    pixels = page(paper)
    left, top, right, bottom = (round(f * s) for f, s in zip(FIGURE, (WIDTH, HEIGHT) * 2, strict=True))
    pixels[top + 20 : bottom - 20, left + 20 : right - 20] = (30, 180, 220)
    return pixels


def turned(size: tuple[int, int] = (WIDTH, HEIGHT)) -> BgrPage:
    return np.ascontiguousarray(np.rot90(page(LIGHT, size, headed=True)))
