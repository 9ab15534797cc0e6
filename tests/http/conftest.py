"""The fixtures of the same names in tests/conftest.py, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.local_service import LocalService, local_deployments
from tests.support.service import standard_settings
from tests.support.tiny_paddleocr_vl import TinyModels


@pytest.fixture(scope="session")
def service(output_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """The service as users run it: Tesseract, folder store; with the dummy engine beside it."""
    with local_deployments(tmp_path_factory.mktemp("service")) as deploy_one:
        service = deploy_one(standard_settings(output_dir))
        service.wait_until_engines_are_ready()
        yield service


@pytest.fixture(scope="session")
def vl(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """The engine paddleocr-vl, native, with tiny models; Tesseract beside it."""
    engine = {
        "name": "paddleocr-vl",
        "device": "cpu",
        "replicas": 1,
        "layout_model_dir": str(tiny_models.layout),
        "vlm": {"backend": "native", "model_dir": str(tiny_models.vlm)},
        "doc_preprocessor": True,
        "orientation_model_dir": str(tiny_models.orientation),
        "unwarping_model_dir": str(tiny_models.unwarping),
        "download": False,
    }
    with local_deployments(tmp_path_factory.mktemp("vl")) as deploy_one:
        service = deploy_one({"engines": [engine, {"name": "tesseract", "replicas": 1}]})
        service.wait_until_engines_are_ready()
        yield service


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Callable[..., LocalService]]:
    with local_deployments(tmp_path) as deploy_one:
        yield deploy_one


@pytest.fixture(scope="module")
def deployed_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LocalService]]:
    with local_deployments(tmp_path_factory.mktemp("module")) as deploy_one:
        yield deploy_one
