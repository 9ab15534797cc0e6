"""OCR engines behind one interface. Importing this package imports no engine library."""

from __future__ import annotations

from typing import assert_never

from serve_app.recognition.engines.engine import Engine, EngineLoadError, PageTask
from serve_app.settings import DummySettings, EngineSettings, PaddleOcrVlSettings, TesseractSettings

__all__ = ["Engine", "EngineLoadError", "PageTask", "create_engine"]


def create_engine(settings: EngineSettings, *, page_s: float, vlm_api_key: str | None = None) -> Engine:
    """Create the configured engine without loading it. `page_s` is the time limit of one page in seconds."""
    match settings:
        case TesseractSettings():
            from serve_app.recognition.engines.tesseract import TesseractEngine

            return TesseractEngine(settings, page_s=page_s)
        case PaddleOcrVlSettings():
            from serve_app.recognition.engines.paddleocr_vl.engine import PaddleOcrVlEngine

            return PaddleOcrVlEngine(settings, page_s=page_s, api_key=vlm_api_key)
        case DummySettings():
            from serve_app.recognition.engines.dummy import DummyEngine

            return DummyEngine(settings)
        case _:
            assert_never(settings)
