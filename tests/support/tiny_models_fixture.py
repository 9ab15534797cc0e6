"""The fixture `tiny_models`: tiny PaddleOCR-VL models for all tests of a run."""

from __future__ import annotations

import pytest

from tests.support.tiny_paddleocr_vl import TinyModels, make_tiny_models


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """The models with scripted answers. Do not change the files."""
    return make_tiny_models(tmp_path_factory.mktemp("tiny-models"))
