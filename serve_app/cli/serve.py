"""The service on this machine, with a Ray of its own, until Ctrl-C: what `serve` of the command line runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve_app.settings import Secrets, Settings, resolve

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema

SAMPLE = "samples/page-ru.png"

# What Ray would otherwise say or do by itself at each start.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # Ray's own default for a local start, which it announces with a warning
    "RAY_DEDUP_LOGS": "0",
    # On one machine Serve's controller may look round once a second instead of ten times: it saves a
    # twentieth of a core, and a replica that died is noticed by its callers at once anyway.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",  # a busy laptop is no reason for a warning
    "RAY_worker_niceness": "0",  # only the engines step back, not the whole service
}
# Engines that load longer than this, in seconds, are not waited for: the service answers without them.
PATIENCE_S = 30.0


def run(raw: dict[str, Any], settings: Settings, keys: dict[str, str]) -> None:
    """Start Ray and Serve here, deploy the config `raw`, wait for Ctrl-C or SIGTERM, stop both.

    `settings` are those of its application, `keys` maps names to API keys. A Ray of its own: one that
    already runs on this machine is neither used nor touched.
    """
    host, port = raw["http_options"]["host"], raw["http_options"]["port"]
    _require_free(host, port)

    print("Starting (about 10 seconds)...", flush=True)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.serve._private.api import serve_start  # what `serve run` itself uses; ray is pinned
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    schema: ServeDeploySchema = ServeDeploySchema.model_validate(raw)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, while starting
    try:
        context = ray.init(
            address="local", namespace="serve", logging_level=logging.WARNING, _node_ip_address="127.0.0.1"
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init() has put its own in place
        client = serve_start(
            http_options=schema.http_options.model_dump(),
            proxy_location=schema.proxy_location,
            global_logging_config=schema.logging_config,
        )
        _require_room(settings, ray.cluster_resources())
        client.deploy_apps(schema, _blocking=False)  # blocking, Ray would give up after a minute
        loading = _wait_until_running(schema.applications[0].name)
        print(_banner(f"http://{host}:{port}", keys, settings, context.dashboard_url or ""), flush=True)
        if loading:
            print(f"Still loading: {', '.join(loading)}. Missing models are fetched first; /health tells.", flush=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: stop.set())
        stop.wait()
    except KeyboardInterrupt:
        pass  # stopped while starting: on to stopping what has started
    finally:
        _stop(schema, settings)


def _require_room(settings: Settings, resources: Mapping[str, float]) -> None:
    """Exit where an engine needs what this machine has not: its replica would be waited for without end."""
    for engine in settings.engines:
        if engine.gpus > resources.get("GPU", 0):
            sys.exit(
                f"The engine {engine.name} needs {engine.gpus:g} GPU, and Ray sees "
                f"{resources.get('GPU', 0):g} here. Without one: device: cpu in the config, or configs/local.yaml."
            )
    cpus = sum(engine.num_cpus * (engine.replicas or 1) for engine in settings.engines)
    if cpus > resources.get("CPU", 0):
        sys.exit(
            f"The engines need {cpus:g} CPUs, and Ray sees {resources.get('CPU', 0):g} here: lower their num_cpus."
        )


def _wait_until_running(application: str) -> list[str]:
    """Wait until every deployment has its replicas; after a while, until the service answers at all.

    Returns the engines that are not loaded by then. Exits where Serve could not deploy.
    """
    from ray import serve

    started = time.monotonic()
    while True:
        status = serve.status().applications[application]
        if status.status == "RUNNING":
            return []
        if status.status == "DEPLOY_FAILED":
            sys.exit(f"The service could not be started: {status.message}")
        late = [name for name, deployment in status.deployments.items() if deployment.status != "HEALTHY"]
        engines = [name.removeprefix("Recognizer-") for name in late if name.startswith("Recognizer-")]
        if time.monotonic() - started > PATIENCE_S and len(engines) == len(late):
            return engines
        time.sleep(0.2)


def _stop(schema: ServeDeploySchema, settings: Settings) -> None:
    import ray
    from ray import serve

    print(
        "Stopping: requests in flight are finished first, jobs go on at the next start; Ctrl-C again stops at once.",
        flush=True,
    )
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    try:
        if ray.is_initialized():
            for application in schema.applications:
                _drain(application.name, settings.limits.document_s)
                serve.delete(application.name)
    except (KeyboardInterrupt, TimeoutError):
        pass  # what does not stop by itself ends with Ray
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # a further one must not leave processes behind
    ray.shutdown()


def _drain(application: str, patience_s: float) -> None:
    """Let the service refuse what is new, and wait until it has answered what it has.

    To delete it stops all of its parts at once, and a document's later pages would find none to go to.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + patience_s
    told = 0
    try:
        ingress: Any = serve.get_app_handle(application)
        while time.monotonic() < deadline:
            deployments = serve.status().applications[application].deployments
            states = deployments["Ingress"].replica_states
            replicas = sum(count for state, count in states.items() if state == "RUNNING")
            # Serve picks who is asked.
            held = dict(ingress.drain.remote().result(timeout_s=5) for _ in range(4 * replicas - 3 * (replicas == 1)))
            working = sum(held.values())
            if not working and len(held) >= replicas:
                return
            if working != told:
                print(f"{working} request(s) in flight...", flush=True)
                told = working
            time.sleep(0.2)
    except (RayError, RayServeException, TimeoutError, KeyError):
        pass  # it has not come up, or is gone: there is nothing to wait for


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"{host}:{port} cannot be used ({error.strerror}). Another port: make serve PORT=9000")


def _banner(address: str, keys: dict[str, str], settings: Settings, dashboard: str) -> str:
    key = next(iter(keys.values()))
    shown = key if Secrets.from_environment().api_keys is None else "YOUR_KEY"
    origin = (
        f"(kept in {resolve(settings.api_key_file)})" if shown == key else f"(from OCR_API_KEYS: {', '.join(keys)})"
    )
    return f"""
PaddleOCR-VL Serve is ready.

  Address    {address}   (documentation: {address}/docs)
  API key    {shown}   {origin}
  Dashboard  http://{dashboard}

Try it:

  curl -sS -H 'Authorization: Bearer {shown}' -H 'Accept: text/plain' -F file=@{SAMPLE} {address}/ocr

Ctrl-C stops it.
"""
