"""Pages for PaddleOCR-VL's benchmarks: the tiny layout model finds the same few blocks on each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.service import service_config
from samples.make_samples import SAMPLES, draw_page
from tests.support.vlm_server import VlmServer

PAGES = 16
BLOCKS = 5
"""Blocks of a page that are sent to the VLM; the sixth block is a picture."""

_SIZE = (1240, 1754)  # A4 at 150 dpi


def light_pages(folder: Path) -> list[Path]:
    """Different pages full of text, as PNG files."""
    paragraphs = [text for sample in SAMPLES.values() for text in sample.body.split("\n\n")]
    paths = []
    for number in range(PAGES):
        turned = paragraphs[number % len(paragraphs) :] + paragraphs[: number % len(paragraphs)]
        while True:
            try:
                page = draw_page("\n\n".join(turned), title=f"Page {number + 1}", size=_SIZE, font_px=24, margin=100)
            except ValueError:  # more than fits
                turned.pop()
            else:
                break
        paths.append(folder / f"page-{number + 1}.png")
        page.save(paths[-1], dpi=(150, 150))
    return paths


def vlm_service_config(folder: Path, layout: Path, vlm: VlmServer) -> Mapping[str, Any]:
    """The config of a service with one recognizer that takes all pages at once."""
    engine = {
        "name": "paddleocr-vl",
        "device": "cpu",
        "replicas": 1,
        "layout_model_dir": str(layout),
        "vlm": {"backend": "vllm-server", "url": vlm.url, "pages_at_once": PAGES},
    }
    return service_config(folder, engine)
