"""The whole graph of deployments. `build` is what Serve configs import."""

# No `from __future__ import annotations` here: Serve looks at build()'s annotation to make Settings.

import ray
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.ingress.deployment import Ingress
from serve_app.ingress.keys import KeyRing, configured_keys
from serve_app.raster.deployment import Rasterizer
from serve_app.recognition.deployment import Recognizer
from serve_app.settings import EngineSettings, Secrets, Settings

# An engine is never idle while work waits: behind the batch that runs, the next one is already there.
BATCHES_AT_A_REPLICA = 2
# Where all replicas are full, Serve asks them again and again whether they still are, which costs as much
# CPU as the rest of the way of a page; so even an engine of small batches takes this many pages.
LEAST_PAGES_AT_A_REPLICA = 16
# A replica that does not answer for this long, three times over, is replaced.
HEALTH_CHECK_TIMEOUT_S = 10
# Questions for an engine's state have room beside its pages.
STATE_CALLS = 2


def build(settings: Settings) -> Application:
    """Ingress -> Rasterizer -> one Recognizer for each engine. What a Serve config says of a deployment wins."""
    secrets = Secrets.from_environment()
    # Serve's line for each call is kept where a call is a request; behind it, it would be noise.
    access_log = LoggingConfig(encoding=settings.log_format.upper())
    quiet = LoggingConfig(encoding=settings.log_format.upper(), enable_access_log=False)
    # A replica that is told to stop first finishes what it has taken on.
    grace_s = settings.limits.request_s

    rasterizer = serve.deployment(
        num_replicas=settings.raster.replicas,
        max_ongoing_requests=LEAST_PAGES_AT_A_REPLICA,
        ray_actor_options={"num_cpus": 0},
        logging_config=quiet,
        graceful_shutdown_timeout_s=grace_s,
    )(Rasterizer).bind(settings.raster, settings.limits)

    recognizers = {
        engine.name: serve.deployment(
            name=f"Recognizer-{engine.name}",
            num_replicas=engine.replicas or _replicas_that_fit(engine),
            max_ongoing_requests=max(BATCHES_AT_A_REPLICA * engine.max_batch, LEAST_PAGES_AT_A_REPLICA) + STATE_CALLS,
            health_check_period_s=settings.limits.health_check_s,
            health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
            ray_actor_options={"num_cpus": engine.cpus},
            logging_config=quiet,
            graceful_shutdown_timeout_s=grace_s,
        )(Recognizer).bind(engine, settings.limits)
        for engine in settings.engines
    }

    return serve.deployment(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=settings.limits.requests + 64,
        ray_actor_options={"num_cpus": 0},
        logging_config=access_log,
        graceful_shutdown_timeout_s=grace_s,
    )(Ingress).bind(settings, secrets, KeyRing(configured_keys(settings, secrets)), rasterizer, recognizers)


def _replicas_that_fit(engine: EngineSettings) -> int:
    """One for each CPU that Ray has; it knows of a container's limits."""
    return max(1, int(ray.cluster_resources().get("CPU", 1) // max(engine.cpus, 1)))
