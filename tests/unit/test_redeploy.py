"""A deploy of the same settings, as Serve's controller sees it."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from ray.serve._private import autoscaling_state, deployment_state
from ray.serve._private.autoscaling_state import AutoscalingStateManager
from ray.serve._private.common import DeploymentID
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve._private.deployment_state import DeploymentState

from serve_app import app
from serve_app.settings import ReplicaRange

NAME = DeploymentID("Rasterizer", "ocr")
RANGE = ReplicaRange(min=1, max=4)


def built() -> DeploymentInfo:
    """Return the rasterizer of one build of the application; the version follows from the settings, so it is always the same."""
    deployment = app._deployment("Rasterizer", app.RASTERIZER, **app._scaling(RANGE, feeds_engines=True))
    config = type(deployment._deployment_config).from_proto_bytes(deployment._deployment_config.to_proto_bytes())
    return DeploymentInfo(config, deployment._replica_config, 0, "", version="of these settings")


def test_ranges_are_read_again_after_a_refused_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve forgets the ranges at each build, and reads those of deployments that have changed."""
    for module in (autoscaling_state, deployment_state):
        monkeypatch.setattr(module, "metrics", MagicMock())  # they need a running Ray
    manager = AutoscalingStateManager()
    state = DeploymentState(NAME, MagicMock(), MagicMock(), MagicMock(), manager)
    state.deploy(built())
    state._target_state.target_num_replicas = 3
    first = state._target_state
    assert manager.should_autoscale_deployment(NAME)

    manager.deregister_application(NAME.app_name)  # as after each build: see `ApplicationState.update`
    state.deploy(built())

    assert manager.should_autoscale_deployment(NAME), "nothing would scale any more"
    assert state._target_state.version == first.version, "replicas would be replaced"
    assert state._target_state.target_num_replicas == 3
