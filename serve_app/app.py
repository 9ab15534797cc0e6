"""The whole graph of deployments. `build` is what Serve configs import."""

# No `from __future__ import annotations` here: Serve looks at build()'s annotation to make Settings.

from collections.abc import Mapping, Sequence

import ray
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.ingress.deployment import Ingress
from serve_app.ingress.keys import KeyRing, configured_keys
from serve_app.jobs.deployment import Jobs
from serve_app.jobs.result_writer import ResultWriterFactory
from serve_app.paddlex.job import DIALECT as PADDLEX
from serve_app.paddlex.job import PaddlexResultWriter
from serve_app.raster.deployment import Rasterizer
from serve_app.recognition.deployment import Recognizer
from serve_app.settings import EngineSettings, Secrets, Settings, with_environment

# A replica that does not answer for this long, three times over, is replaced.
HEALTH_CHECK_TIMEOUT_S = 10
# Pages stand in line within a rasterizer, where documents take turns; those that wait outside would not.
RASTERIZER_CALLS = 256
# Questions for an engine's state have room beside its pages.
STATE_CALLS = 2
# Whoever watches a job has a call waiting there, and all ingress replicas have their watchers.
JOBS_CALLS = 10_000
# Jobs go on elsewhere: their replica has nothing to wait for.
JOBS_GRACE_S = 2
# Jobs write results in these dialects too.
RESULT_WRITERS: Mapping[str, ResultWriterFactory] = {PADDLEX: PaddlexResultWriter}


def build(settings: Settings) -> Application:
    """Ingress and Jobs -> Rasterizer -> one Recognizer for each engine. What a Serve config says of a deployment wins."""
    settings = with_environment(settings)
    secrets = Secrets.from_environment()
    # Serve's line for each call is kept where a call is a request; behind it, it would be noise.
    access_log = LoggingConfig(encoding=settings.log_format.upper())
    quiet = LoggingConfig(encoding=settings.log_format.upper(), enable_access_log=False)
    # A replica that is told to stop first finishes what it has taken on.
    grace_s = settings.limits.request_s

    rasterizer = serve.deployment(
        num_replicas=settings.raster.replicas,
        max_ongoing_requests=RASTERIZER_CALLS,
        ray_actor_options={"num_cpus": 0},
        logging_config=quiet,
        graceful_shutdown_timeout_s=grace_s,
    )(Rasterizer).bind(settings.raster, settings.limits, settings.temp_dir)

    replicas = _replicas_that_fit(settings.engines)
    recognizers = {
        engine.name: serve.deployment(
            name=f"Recognizer-{engine.name}",
            num_replicas=replicas[engine.name],
            max_ongoing_requests=engine.pages_at_a_replica + STATE_CALLS,
            health_check_period_s=settings.limits.health_check_s,
            health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
            ray_actor_options={"num_cpus": engine.num_cpus, "num_gpus": engine.gpus},
            logging_config=quiet,
            graceful_shutdown_timeout_s=grace_s,
        )(Recognizer).bind(engine, settings.limits, secrets.vlm_api_key)
        for engine in settings.engines
    }

    jobs = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=JOBS_CALLS,
        ray_actor_options={"num_cpus": 0},
        logging_config=quiet,
        graceful_shutdown_timeout_s=JOBS_GRACE_S,
    )(Jobs).bind(settings, secrets, rasterizer, recognizers, RESULT_WRITERS)

    return serve.deployment(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.limits.requests + 64,
        ray_actor_options={"num_cpus": 0},
        logging_config=access_log,
        graceful_shutdown_timeout_s=max(grace_s, settings.limits.document_s),
    )(Ingress).bind(settings, secrets, KeyRing(configured_keys(settings, secrets)), rasterizer, recognizers, jobs)


def _replicas_that_fit(engines: Sequence[EngineSettings]) -> dict[str, int]:
    """Replicas of each engine where the settings do not say: what Ray has room for, which knows a container's limits.

    One for each GPU; engines without one share the CPUs that the others leave.
    """
    resources = ray.cluster_resources()
    fit: dict[str, int] = {engine.name: engine.replicas or max(1, int(resources.get("GPU", 0) // engine.gpus))
           for engine in engines if engine.replicas or engine.gpus}  # fmt: skip
    left = resources.get("CPU", 1) - sum(engine.num_cpus * fit[engine.name] for engine in engines if engine.name in fit)
    others = [engine for engine in engines if engine.name not in fit]
    for engine in others:
        fit[engine.name] = max(1, int(left / len(others) // max(engine.num_cpus, 1)))
    return fit
