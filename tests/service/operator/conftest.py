"""The cluster of an operator, with serve_config.yaml deployed on it: one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import ROOT, Cluster
from tests.support.documentation import code_blocks
from tests.support.tiny_paddleocr_vl import TinyModels

OPERATE = ROOT / "docs" / "operate.md"


def documented_deployments() -> list[dict[str, Any]]:
    """The `deployments` that docs/operate.md shows under Scaling, with Serve's own `autoscaling_config`."""
    (block,) = [block for _, block in code_blocks(OPERATE.read_text()) if block.startswith("deployments:")]
    deployments: list[dict[str, Any]] = yaml.safe_load(block)["deployments"]
    return deployments


def documented_tracing() -> dict[str, Any]:
    """The `tracing_config` of docs/operate.md, but only for requests that ask to be traced."""
    (block,) = [block for _, block in code_blocks(OPERATE.read_text()) if block.startswith("tracing_config:")]
    tracing: dict[str, Any] = yaml.safe_load(block)["tracing_config"]
    return tracing | {"sampling_ratio": 0}


def production_config(cluster: Cluster, models: TinyModels) -> dict[str, Any]:
    """serve_config.yaml as it stands, on a free loopback port; the GPUs that Ray counts are none, the models are tiny.

    Beside its engines is one that takes 0.1 s a page: work is always in flight, and the cores have time for what starts. It loads
    slowly. It has two of the three GPUs: room for an old replica and a new one, as PaddleOCR-VL on its only GPU has not.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": int(cluster.service.url.rpartition(":")[2])}
    config["tracing_config"] = documented_tracing()
    application = config["applications"][0]
    application["args"]["store"]["path"] = str(cluster.folder / "output")
    application["args"]["allowed_private_networks"] = ["127.0.0.2/32"]  # of a receiver of webhooks
    engines = application["args"]["engines"]
    vl = engines[0]
    vl |= {"device": "cpu", "layout_model_dir": str(models.layout)}
    vl["vlm"]["model_dir"] = str(models.vlm)
    for scaled in (*engines, application["args"]["raster"]):
        scaled["replicas"]["max"] = 2  # what this machine has room for
    vl["replicas"]["max"] = 1
    engines.append(
        {"name": "dummy", "replicas": 1, "num_gpus": 1, "load_s": 3, "page_s": 0.1, "max_batch": 4, "text": "before"}
    )
    room_for_both = {"name": "Recognizer-dummy", "max_surge_percent": 50}
    application["deployments"] += [*documented_deployments(), room_for_both]
    return config


@pytest.fixture(scope="package")
def cluster(short_tmp_path_factory: Callable[[], Path], tiny_models: TinyModels) -> Iterator[Cluster]:
    cluster = Cluster(short_tmp_path_factory())
    try:
        cluster.deploy(production_config(cluster, tiny_models))
        cluster.wait_until_running()
        yield cluster
    finally:
        cluster.stop()
