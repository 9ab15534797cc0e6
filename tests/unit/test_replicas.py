"""How many replicas an engine gets where the settings do not say: no more than there is room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from serve_app import app
from serve_app.settings import ReplicaRange, Settings

CONFIGS = Path(__file__).parents[2] / "configs"


def fit(monkeypatch: pytest.MonkeyPatch, engines: list[dict[str, Any]], **resources: float) -> dict[str, Any]:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources}])
    return app._replicas_that_fit(Settings.model_validate({"engines": engines}).engines)


TESSERACT: dict[str, Any] = {"name": "tesseract"}
ON_GPU: dict[str, Any] = {"name": "paddleocr-vl"}


@pytest.mark.parametrize(
    ("engines", "resources", "expected"),
    [
        ([TESSERACT], {"CPU": 8}, {"tesseract": 8}),
        ([TESSERACT | {"num_cpus": 2}], {"CPU": 8}, {"tesseract": 4}),
        ([TESSERACT | {"num_cpus": 0.5}], {"CPU": 8}, {"tesseract": 16}),
        ([TESSERACT | {"num_cpus": 0}], {"CPU": 8}, {"tesseract": 8}),
        ([ON_GPU | {"num_gpus": 0.2}, TESSERACT], {"CPU": 8, "GPU": 1}, {"paddleocr-vl": 5, "tesseract": 3}),
        ([TESSERACT], {}, {"tesseract": 1}),
        ([ON_GPU, TESSERACT], {"CPU": 8, "GPU": 2}, {"paddleocr-vl": 2, "tesseract": 6}),
        ([ON_GPU | {"num_gpus": 0.5}, TESSERACT], {"CPU": 8, "GPU": 1}, {"paddleocr-vl": 2, "tesseract": 6}),
        ([ON_GPU | {"device": "cpu", "replicas": 1}, TESSERACT], {"CPU": 2}, {"paddleocr-vl": 1, "tesseract": 1}),
        ([ON_GPU | {"device": "cpu"}, TESSERACT], {"CPU": 8}, {"paddleocr-vl": 4, "tesseract": 4}),
        (
            [ON_GPU | {"device": "cpu", "replicas": {"min": 1, "max": 6}}, TESSERACT],
            {"CPU": 8},
            {"paddleocr-vl": ReplicaRange(max=6), "tesseract": 2},
        ),
        ([TESSERACT | {"replicas": {"min": 1}}], {"CPU": 8}, {"tesseract": ReplicaRange(max=8)}),
        ([TESSERACT | {"replicas": {"min": 4}}], {"CPU": 2}, {"tesseract": ReplicaRange(min=4, max=4)}),
        (
            [ON_GPU | {"replicas": {"min": 0}}, TESSERACT | {"replicas": {"min": 1}}],
            {"CPU": 8, "GPU": 4},
            {"paddleocr-vl": ReplicaRange(min=0, max=4), "tesseract": ReplicaRange(max=4)},
        ),
        ([ON_GPU | {"replicas": 3}, TESSERACT | {"replicas": 5}], {"CPU": 8}, {"paddleocr-vl": 3, "tesseract": 5}),
    ],
)
def test_engines_share_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
    engines: list[dict[str, Any]],
    resources: dict[str, float],
    expected: dict[str, int],
) -> None:
    assert fit(monkeypatch, engines, **resources) == expected


@pytest.mark.parametrize(
    ("count", "each", "expected"),
    [(1, 0.2, 5), (1, 0.1, 10), (2, 0.2, 10), (2, 0.6, 2), (3, 0.5, 6), (3, 1, 3), (3, 2, 1), (0, 0.5, 0), (1, 2, 0)],
)
def test_as_many_fit_on_the_gpus_of_a_node_as_ray_places(count: int, each: float, expected: int) -> None:
    assert app._on_gpus(count, each) == expected


def test_with_nodes_for_cpu_work_only_their_cpus_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_node = {"Alive": True, "Resources": {"CPU": 64.0, "GPU": 2.0}}
    cpu_node = {"Alive": True, "Resources": {"CPU": 8.0, "cpu_work": 1.0}}
    lost = {"Alive": False, "Resources": {"CPU": 8.0, "cpu_work": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [gpu_node, cpu_node, lost])
    engines = Settings.model_validate({"engines": [ON_GPU, TESSERACT]}).engines
    assert app._replicas_that_fit(engines, "cpu_work") == {"paddleocr-vl": 2, "tesseract": 8}


@pytest.mark.parametrize("config", ["local.yaml", "gpu.yaml", "vllm-server.yaml"])
@pytest.mark.parametrize("cpus", [1, 2, 16])
def test_every_replica_of_a_shipped_config_finds_room_on_one_machine(
    monkeypatch: pytest.MonkeyPatch, config: str, cpus: int
) -> None:
    engines = yaml.safe_load((CONFIGS / config).read_text())["applications"][0]["args"]["engines"]
    replicas = fit(monkeypatch, engines, CPU=cpus, GPU=1)
    settings = Settings.model_validate({"engines": engines}).engines
    assert sum((app._most(replicas[engine.name]) or 0) * engine.num_cpus for engine in settings) <= cpus
    assert sum((app._most(replicas[engine.name]) or 0) * engine.gpus for engine in settings) <= 1
