"""The map of the service: every deployment and what it is connected to. Serve configs import `build`."""

# No `from __future__ import annotations` here: Serve reads the annotation of build() to construct Settings.

import warnings
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from serve_app.ingress.keys import KeyRing, configured_keys
from serve_app.paddlex import DIALECT as PADDLEX
from serve_app.scheduling.page_scaling import PageScaling
from serve_app.settings import EngineSettings, ReplicaRange, Secrets, Settings, with_environment

if TYPE_CHECKING:
    from serve_app.jobs.result_writer import ResultWriter, ResultWriterFactory
    from serve_app.pipeline.documents import Documents
    from serve_app.storage.links import Links

# The classes of the deployments. Only their replicas import them: nothing starts before `build` has returned.
INGRESS = "serve_app.ingress.deployment.Ingress"
JOBS = "serve_app.jobs.deployment.Jobs"
RASTERIZER = "serve_app.raster.deployment.Rasterizer"
RECOGNIZER = "serve_app.recognition.deployment.Recognizer"

# Seconds. A replica that exceeds this in three health checks in a row is replaced.
HEALTH_CHECK_TIMEOUT_S = 10
# High, so that pages queue within a rasterizer, where documents take turns, and not in Serve's own queue.
RASTERIZER_CALLS = 256
# A page goes to the replica with the fewest pages.
BY_PAGES = {"request_router_class": "serve_app.scheduling.shortest_queue.ShortestQueueRouter"}
# Calls that read an engine's state, in addition to those with its pages.
STATE_CALLS = 2
# Each watcher of a job, at any ingress replica, has one call that waits in Jobs.
JOBS_CALLS = 10_000
# Short, since jobs resume in the next replica.
JOBS_GRACE_S = 2
# Calls about one Idempotency-Key, or about one job that nobody has, come to one replica.
BY_SESSION = {"request_router_class": "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"}
# Seconds. The autoscaler sees the mean over the last LOOK_BACK_S, from reports that replicas and callers send every REPORT_S.
LOOK_BACK_S, REPORT_S = 5, 1
# Of quotients such as 1 / 0.1.
ROUNDING = 1e-9
# Share of the resource `cpu_nodes` for each replica, so that an amount of 1 at a node has room for a thousand replicas.
CPU_NODE_SHARE = 0.001


def _paddlex_result_writer(settings: Settings, documents: "Documents", links: "Links") -> "ResultWriter":
    from serve_app.paddlex.job import PaddlexResultWriter

    return PaddlexResultWriter(settings, documents, links)


# Dialects, besides the service's own, in which jobs can write results.
RESULT_WRITERS: Mapping[str, "ResultWriterFactory"] = {PADDLEX: _paddlex_result_writer}


def build(settings: Settings) -> Application:
    """Build Ingress and Jobs -> Rasterizer -> one Recognizer per engine. Options in the Serve config take precedence."""
    settings = with_environment(settings)
    secrets = Secrets.from_environment()
    # The access log stays on, since Serve would leave out the request ids as well; serve_log.py hides its lines.
    logging_config = LoggingConfig(encoding=settings.log_format.upper(), log_level=settings.log_level.upper())
    on_cpu_nodes = {settings.cpu_nodes: CPU_NODE_SHARE} if settings.cpu_nodes is not None else {}
    without_cpu = {"num_cpus": 0, "resources": on_cpu_nodes}
    # A stopping replica first finishes the calls that it has accepted.
    grace_s = settings.limits.request_s

    rasterizer = _deployment(
        "Rasterizer",
        RASTERIZER,
        **_scaling(settings.raster.replicas, feeds_engines=True),
        max_ongoing_requests=RASTERIZER_CALLS,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        request_router_config=BY_PAGES,
        ray_actor_options=without_cpu,
        logging_config=logging_config,
        graceful_shutdown_timeout_s=grace_s,
    ).bind(settings.raster, settings.limits, settings.temp_dir)

    replicas = _replicas_that_fit(settings.engines, settings.cpu_nodes)
    recognizers = {
        engine.name: _deployment(
            f"Recognizer-{engine.name}",
            RECOGNIZER,
            **_scaling(replicas[engine.name]),
            max_ongoing_requests=engine.pages_at_a_replica + STATE_CALLS,
            request_router_config=BY_PAGES,
            health_check_period_s=settings.limits.health_check_s,
            health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
            ray_actor_options={
                "num_cpus": engine.num_cpus,
                "num_gpus": engine.gpus,
                "resources": {} if engine.gpus else on_cpu_nodes,
            },
            logging_config=logging_config,
            graceful_shutdown_timeout_s=grace_s,
        ).bind(engine, settings.limits, secrets.vlm_api_key)
        for engine in settings.engines
    }

    jobs = _deployment(
        "Jobs",
        JOBS,
        num_replicas=settings.jobs.replicas,
        max_ongoing_requests=JOBS_CALLS,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        request_router_config=BY_SESSION,
        ray_actor_options=without_cpu,
        logging_config=logging_config,
        graceful_shutdown_timeout_s=JOBS_GRACE_S,
    ).bind(settings, secrets, rasterizer, recognizers, RESULT_WRITERS)

    return _deployment(
        "Ingress",
        INGRESS,
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.limits.requests + 64,
        ray_actor_options=without_cpu,
        logging_config=logging_config,
        graceful_shutdown_timeout_s=max(grace_s, settings.limits.document_s),
    ).bind(settings, secrets, KeyRing(configured_keys(settings, secrets)), rasterizer, recognizers, jobs)


def _deployment(name: str, path: str, **options: Any) -> serve.Deployment:
    """Return a deployment of the class at this import path."""
    return serve.deployment(name=name, **options)(path)  # type: ignore[arg-type]  # Serve takes a path as well


def _scaling(replicas: int | ReplicaRange, *, feeds_engines: bool = False) -> dict[str, Any]:
    """Return the options of a deployment with that many replicas, or with as many as its pages need: see PageScaling."""
    if not isinstance(replicas, ReplicaRange):
        return {"num_replicas": replicas}
    with warnings.catch_warnings():
        # Ray deprecates the interval in favour of environment variables, which Ray 2.60 does not read yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.min,
                max_replicas=replicas.max or max(1, replicas.min),
                upscale_delay_s=replicas.upscale_delay_s,
                downscale_delay_s=replicas.downscale_delay_s,
                look_back_period_s=LOOK_BACK_S,
                metrics_interval_s=REPORT_S,
                policy=AutoscalingPolicy(
                    policy_function=PageScaling,
                    policy_kwargs={
                        "target_wait_s": replicas.target_wait_s,
                        "feeds_engines": feeds_engines,
                        # Serve forgets all ranges at each build, and reads only those that differ from what it had. Replicas stay
                        # as they are: the policy is no part of their version.
                        "build": token_hex(4),
                    },
                ),
            )
        }


def _replicas_that_fit(
    engines: Sequence[EngineSettings], cpu_nodes: str | None = None
) -> dict[str, int | ReplicaRange]:
    """Return the number of replicas of each engine: as configured, or as many as Ray's resources allow.

    Engines with a GPU get one replica per GPU; the others share the remaining CPUs, with `cpu_nodes` those of the nodes
    that have this resource. Ray respects a container's limits.
    """
    nodes = _nodes()
    fit: dict[str, int | ReplicaRange] = {}
    for engine in engines:
        if engine.replicas is not None and _most(engine.replicas) is not None:
            fit[engine.name] = engine.replicas
        elif engine.gpus:
            room = sum(_on_gpus(int(node.get("GPU", 0)), engine.gpus) for node in nodes)
            fit[engine.name] = _up_to(room, engine.replicas)
    # GPUs have their own nodes then, whose CPUs the others cannot have.
    beside = [engine for engine in engines if engine.name in fit and not (cpu_nodes and engine.gpus)]
    cpus = sum(node.get("CPU", 0) for node in nodes if cpu_nodes is None or cpu_nodes in node)
    left = cpus - sum(engine.num_cpus * (_most(fit[engine.name]) or 0) for engine in beside)
    others = [engine for engine in engines if engine.name not in fit]
    for engine in others:
        # An engine that reserves none is busy all the same.
        fit[engine.name] = _up_to(int(left / len(others) / (engine.num_cpus or 1) + ROUNDING), engine.replicas)
    return fit


def _on_gpus(count: int, each: float) -> int:
    """Return how many replicas with `each` of a GPU, or that many whole ones, fit on a node: a part is of one GPU."""
    return count * int(1 / each + ROUNDING) if each < 1 else int(count / each + ROUNDING)


def _most(replicas: int | ReplicaRange) -> int | None:
    return replicas.max if isinstance(replicas, ReplicaRange) else replicas


def _up_to(room: int, replicas: int | ReplicaRange | None) -> int | ReplicaRange:
    """Return as many replicas as there is room for, or the range with that as its `max`. It is one at least."""
    if isinstance(replicas, ReplicaRange):
        return replicas.model_copy(update={"max": max(1, room, replicas.min)})
    return max(1, room)


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
