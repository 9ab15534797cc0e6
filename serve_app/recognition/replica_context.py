"""Tells a replica who it is in Serve, and what else there is of its deployment."""

from __future__ import annotations

from ray import serve
from ray.serve.exceptions import RayServeException


def replica_id() -> str:
    """Return this replica's id in Serve, or a fixed text outside Serve."""
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return "outside Serve"


def max_replicas() -> int:
    """Return the most replicas that this deployment may have; 1 outside Serve."""
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return 1
    autoscaling = context._deployment_config.autoscaling_config
    return int(autoscaling.max_replicas if autoscaling else context.world_size)


def others_run() -> bool:
    """Return whether replicas of this deployment run, of this version or an earlier one. Blocks; False outside Serve."""
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return False
    application = serve.status().applications.get(context.app_name)
    deployment = application.deployments.get(context.deployment) if application else None
    return deployment is not None and any(state == "RUNNING" for state in deployment.replica_states)
