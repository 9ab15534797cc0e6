"""Every config file is one that Serve and the service take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.settings import PaddleOcrVlSettings, Settings, TesseractSettings

ROOT = Path(__file__).parents[2]
OF_CLUSTERS = sorted(ROOT.glob("configs/kuberay/overlays/*/serve_config.yaml"))
OF_COMPOSE = [ROOT / "configs/compose/cpu.yaml", ROOT / "configs/compose/gpu.yaml"]
CONFIGS = [*sorted(ROOT.glob("configs/*.yaml")), *OF_CLUSTERS, *OF_COMPOSE, ROOT / "serve_config.yaml"]
WITH_GPU = ["configs/gpu.yaml", "configs/vllm-server.yaml", "serve_config.yaml"]


def load(config: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(config.read_text())
    return raw


def settings(config: Path) -> Settings:
    (application,) = load(config)["applications"]
    return Settings.model_validate(application["args"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.relative_to(ROOT)))
def test_a_config_is_valid_for_serve_and_for_the_service(config: Path) -> None:
    raw = load(config)
    schema = ServeDeploySchema.model_validate(raw)
    assert set(raw) <= set(ServeDeploySchema.model_fields), "Serve ignores unknown names"
    assert schema.http_options.port == 8081
    # build()'s own names of deployments; an override of another one would be an error at deploy time.
    known = {"Ingress", "Rasterizer", *(f"Recognizer-{engine.name}" for engine in settings(config).engines)}
    (application,) = schema.applications
    assert {deployment.name for deployment in application.deployments} <= known


@pytest.mark.parametrize("config", WITH_GPU)
def test_paddleocr_vl_reads_first_and_tesseract_when_it_cannot(config: str) -> None:
    first, second = settings(ROOT / config).engines
    assert isinstance(first, PaddleOcrVlSettings) and isinstance(second, TesseractSettings)
    assert first.fallback == second.name and second.load == "lazy"


@pytest.mark.parametrize("config", WITH_GPU)
def test_what_stands_in_comments_of_a_config_is_valid_too(config: str) -> None:
    """The variants that a config offers: `vlm: {backend: vllm-server, ...}` and `launch: {}`."""
    offered = [line.split("#   ", 1)[1] for line in (ROOT / config).read_text().splitlines() if "#   " in line]
    engine = settings(ROOT / config).engines[0].model_dump(mode="json")
    for line in offered:
        if line.startswith("vlm:"):
            engine |= yaml.safe_load(line)
        elif line.startswith("launch:"):
            engine["vlm"] = {**engine["vlm"], "url": None, **yaml.safe_load(line)}
        elif line.startswith("num_gpus:"):
            engine |= yaml.safe_load(line)
    assert PaddleOcrVlSettings.model_validate(engine)


def test_a_server_leaves_room_on_the_gpu_for_the_layout_model() -> None:
    engine = settings(ROOT / "configs/vllm-server.yaml").engines[0]
    assert engine.gpus < 1 and engine.replicas == 1
