"""The command `serve`: runs the service on this machine, with its own Ray, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.tessdata import find_tessdata
from serve_app.settings import Secrets, Settings, TesseractSettings, resolve

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema

SAMPLE = "samples/page-ru.png"

# Without these Ray prints warnings, reports usage statistics or works more than one machine needs.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # Ray's default for a local start; if unset, Ray warns
    "RAY_DEDUP_LOGS": "0",
    # On one machine Serve's controller may check four times a second instead of ten. This saves a thirtieth of a core, and
    # callers notice at once anyway when a replica has died. A start waits for three of these checks.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",  # no warning because a laptop is busy
    "RAY_worker_niceness": "0",  # only engines run at low priority, not the whole service
    # Every process that a replica starts runs another program at once. Without this, gRPC logs a line for each.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # A thread of a handle may call Ray when it has just been stopped. The call fails, instead of starting a second Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
# Seconds after which the command no longer waits for an engine that is still loading.
PATIENCE_S = 30.0
# Seconds to wait for a replica's response.
CALL_S = 5.0
# Seconds between looks at the requests in flight. Each is a line in the log.
DRAIN_POLL_S = 1.0


def run(raw: dict[str, Any], settings: Settings, keys: dict[str, str]) -> None:
    """Start Ray and Serve, deploy the config `raw`, wait for Ctrl-C or SIGTERM, then stop both.

    `settings` are those of its application, `keys` maps names to API keys. A Ray that already runs on this
    machine is neither used nor affected.
    """
    stop = _StopSignal()
    host, port = raw["http_options"]["host"], raw["http_options"]["port"]
    _require_free(host, port)
    _require_language_data(settings)

    print("Starting (about 10 seconds)...", flush=True)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    schema: ServeDeploySchema = ServeDeploySchema.model_validate(raw)
    application = schema.applications[0].name
    started = False
    try:
        stop.check()
        context = ray.init(
            address="local", namespace="serve", logging_level=logging.WARNING, _node_ip_address="127.0.0.1"
        )
        stop.install()  # ray.init() has replaced the handler of SIGTERM
        stop.check()
        _require_room(settings, ray.cluster_resources())
        _deploy(schema)
        loading = _wait_until_running(application, stop)
        started = True
        failed = _failed_engines(
            application, [engine.name for engine in settings.engines if engine.name not in loading]
        )
        print(_banner(f"http://{host}:{port}", keys, settings, context.dashboard_url or "", failed), flush=True)
        if loading:
            print(
                f"Still loading: {', '.join(loading)}. Missing models are downloaded first; /health shows the state.",
                flush=True,
            )
        stop.wait()
    except KeyboardInterrupt:
        print("Stopping...", flush=True)  # what has started already
    except SystemExit as exited:
        if exited.code != signal.SIGTERM:
            raise
        print("Stopping...", flush=True)  # ray.init() has a handler of its own for SIGTERM
    finally:
        _stop(application if started else None, settings)


def _deploy(schema: ServeDeploySchema) -> None:
    """Start Serve and its proxy, and deploy the application meanwhile: `serve_start` would wait for the proxy first.

    Returns when the proxy listens. Raises TimeoutError if it does not.
    """
    import ray
    from ray.serve._private.api import _create_controller_and_proxy_refs  # as `serve run` does; ray is pinned
    from ray.serve._private.client import ServeControllerClient
    from ray.serve._private.constants import HTTP_PROXY_TIMEOUT
    from ray.serve.config import ControllerOptions
    from ray.serve.context import _set_global_client

    controller, proxies = _create_controller_and_proxy_refs(
        http_options=schema.http_options.model_dump(),
        grpc_options=None,
        global_logging_config=schema.logging_config,
        global_tracing_config=None,
        controller_options=ControllerOptions(),
        proxy_location=schema.proxy_location,
    )
    client = ServeControllerClient(controller)
    _set_global_client(client)
    client.deploy_apps(schema, _blocking=False)  # if blocking, Ray would give up after a minute
    ray.get(proxies, timeout=HTTP_PROXY_TIMEOUT)


class _StopSignal:
    """SIGINT and SIGTERM: during the start they raise KeyboardInterrupt, later they end `wait`.

    Handles SIGINT also if the parent has it ignored, as a shell's script does for what it runs in the background.
    """

    def __init__(self) -> None:
        self._received = threading.Event()
        self._raises = True
        self.install()

    def install(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._receive)
        sys.unraisablehook = _report_unless_interrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come. A library may have caught the one that was raised at once."""
        if self._received.is_set():
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Wait for a signal. From now on, none raises."""
        self._raises = False
        self._received.wait()

    def _receive(self, *_: object) -> None:
        self._received.set()
        if self._raises:
            raise KeyboardInterrupt


def _report_unless_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised while it frees an object, and prints a traceback. A signal that comes then is noted all the same."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


def _require_language_data(settings: Settings) -> None:
    """Exit if a language of the config has no data: Tesseract could not be loaded."""
    for engine in settings.engines:
        if isinstance(engine, TesseractSettings):
            try:
                find_tessdata(engine.tessdata, engine.languages)
            except EngineLoadError as error:
                sys.exit(f"The engine {engine.name} cannot be loaded: {error}.")


def _require_room(settings: Settings, resources: Mapping[str, float]) -> None:
    """Exit if an engine needs more than this machine has: Serve would wait for its replica forever."""
    for engine in settings.engines:
        if engine.gpus > resources.get("GPU", 0):
            sys.exit(
                f"The engine {engine.name} needs {engine.gpus:g} GPU, but Ray finds "
                f"{resources.get('GPU', 0):g} on this machine. Set device: cpu in the config, or use configs/local.yaml."
            )
    if settings.cpu_nodes is not None and settings.cpu_nodes not in resources:
        sys.exit(
            f"The config asks for nodes with the resource {settings.cpu_nodes!r} (cpu_nodes), which this machine does not have."
        )
    cpus = sum(engine.num_cpus * engine.least_replicas for engine in settings.engines)
    if cpus > resources.get("CPU", 0):
        sys.exit(
            f"The engines need {cpus:g} CPUs, but Ray finds {resources.get('CPU', 0):g} on this machine. Lower their num_cpus."
        )


def _wait_until_running(application: str, stop: _StopSignal) -> list[str]:
    """Wait until every deployment is running, or after PATIENCE_S until only engines are still loading.

    Returns these engines. Exits if Serve could not deploy the application.
    """
    from ray import serve

    started = time.monotonic()
    while True:
        stop.check()
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


def _failed_engines(application: str, engines: Sequence[str]) -> dict[str, str]:
    """Return why each of these engines could not be loaded by any replica; leave out the others."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    failed: dict[str, str] = {}
    for engine in engines:
        handle: Any = serve.get_deployment_handle(f"Recognizer-{engine}", application)
        try:
            # A call to all replicas does not start one where there is none, as a call to any of them would.
            states = handle.broadcast("state").results(timeout_s=CALL_S)
        except (RayError, RayServeException, TimeoutError):
            continue  # its replica is busy or being replaced, or there is none; /health will show its state
        reasons = [state.reason for state in states if state.reason is not None]
        if reasons and len(reasons) == len(states):
            failed[engine] = reasons[0]
    return failed


def _stop(application: str | None, settings: Settings) -> None:
    """Stop Ray. If the application has been started, first finish its requests."""
    import ray
    from ray import serve

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    try:
        if application is not None:
            print(
                "Stopping: finishing the requests in flight; jobs resume at the next start. "
                "Press Ctrl-C again to stop at once.",
                flush=True,
            )
            _drain(application, settings)
            serve.delete(application)
    except (KeyboardInterrupt, TimeoutError):
        pass  # the rest ends with Ray
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # another signal must not leave processes behind
    ray.shutdown()


def _drain(application: str, settings: Settings) -> None:
    """Make the service refuse new requests, and wait until those in flight are finished.

    Deleting the application would stop all deployments at once, and the later pages of a document would fail.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + settings.limits.document_s
    reported = 0
    try:
        ingress: Any = serve.get_deployment_handle("Ingress", application)
        while time.monotonic() < deadline:
            # After an update that was refused, Serve lists no deployments, though the former ones still run.
            deployments = serve.status().applications[application].deployments
            replicas = settings.ingress_replicas
            if "Ingress" in deployments:
                states = deployments["Ingress"].replica_states
                replicas = sum(count for state, count in states.items() if state == "RUNNING")
            # Serve chooses the replica for each call, so call often enough to reach all.
            in_flight = dict(
                ingress.drain.remote().result(timeout_s=CALL_S) for _ in range(4 * replicas - 3 * (replicas == 1))
            )
            working = sum(in_flight.values())
            if not working and len(in_flight) >= replicas:
                return
            if working != reported:
                print(f"{working} request(s) in flight...", flush=True)
                reported = working
            time.sleep(DRAIN_POLL_S)
    except (RayError, RayServeException, TimeoutError, KeyError):
        pass  # the application is gone: there is nothing to wait for


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"Cannot listen on {host}:{port}: {error.strerror}. To use another port: make serve PORT=9000")


def _banner(address: str, keys: dict[str, str], settings: Settings, dashboard: str, failed: Mapping[str, str]) -> str:
    """`failed` has the engines that could not be loaded, each with the reason."""
    key = next(iter(keys.values()))
    displayed_key = key if Secrets.from_environment().api_keys is None else "YOUR_KEY"
    file = resolve(settings.api_key_file)
    if displayed_key == key:
        origin = f"(stored in {file})"
        pasted_key = f"$(cat {shlex.quote(str(file))})"  # so that the shell's history does not have the key
    else:
        origin, pasted_key = f"(one of OCR_API_KEYS: {', '.join(keys)})", displayed_key
    state = "is ready" if len(failed) < len(settings.engines) else "is running, but no engine could be loaded"
    failures = "".join(
        f"\nThe engine {name} could not be loaded: {reason}. The service keeps trying.\n"
        for name, reason in failed.items()
    )
    return f"""
PaddleOCR-VL Serve {state}.
{failures}
  Address    {address}   (documentation: {address}/docs)
  API key    {displayed_key}   {origin}
  Dashboard  http://{dashboard}

Try it:

  curl -sS -H "Authorization: Bearer {pasted_key}" -H 'Accept: text/plain' -F file=@{SAMPLE} {address}/ocr

Press Ctrl-C to stop.
"""
