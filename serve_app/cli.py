"""The command line: `python -m serve_app serve CONFIG` runs the service on this machine until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from serve_app.ingress.keys import configured_keys
from serve_app.settings import Secrets, Settings, resolve
from serve_app.settings_table import settings_table

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serve_app", description="PaddleOCR-VL Serve")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the service on this machine until Ctrl-C")
    serve.add_argument("config", help="a Serve config, such as configs/local.yaml")
    serve.add_argument("--host", help="address to listen on, instead of the config's")
    serve.add_argument("--port", type=_port, help="HTTP port, instead of the config's")
    serve.set_defaults(run=lambda arguments: run(arguments.config, arguments.host, arguments.port))
    key = commands.add_parser("key", help="print the API key: the first of OCR_API_KEYS, or the one that was made")
    key.add_argument("config", nargs="?", default="configs/local.yaml")
    key.set_defaults(run=lambda arguments: print(next(iter(_keys(_settings(_load(arguments.config))).values()))))
    table = commands.add_parser("settings", help="print every setting as a Markdown table")
    table.set_defaults(run=lambda arguments: print(settings_table()))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:  # before there was anything to stop
        sys.exit(130)


def run(config: str, host: str | None, port: int | None) -> None:
    """Start Ray and Serve here, deploy the config, wait for Ctrl-C or SIGTERM, stop both.

    A Ray of its own: one that already runs on this machine is neither used nor touched.
    """
    raw = _load(config, host=host, port=port)
    settings = _settings(raw)
    keys = _keys(settings)
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
        client.deploy_apps(schema, _blocking=True)
        print(_banner(f"http://{host}:{port}", keys, settings, context.dashboard_url or ""), flush=True)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: stop.set())
        stop.wait()
    except KeyboardInterrupt:
        pass  # stopped while starting: on to stopping what has started
    finally:
        _stop(schema)


def _stop(schema: ServeDeploySchema) -> None:
    import ray
    from ray import serve

    print("Stopping: requests in flight are finished first; Ctrl-C again stops at once.", flush=True)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    try:
        if ray.is_initialized():
            for application in schema.applications:
                serve.delete(application.name)
    except KeyboardInterrupt:
        pass
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # a further one must not leave processes behind
    ray.shutdown()


def _load(config: str, **http_options: Any) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = yaml.safe_load(Path(config).read_text())
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"{config} could not be read: {error}")
    if not isinstance(raw, dict):
        sys.exit(f"{config} is not a Serve config: it has no applications")
    given = {name: value for name, value in http_options.items() if value is not None}
    raw["http_options"] = {"host": "127.0.0.1", "port": 8081, **(raw.get("http_options") or {}), **given}
    return raw


def _settings(raw: dict[str, Any]) -> Settings:
    applications = raw.get("applications") or []
    if len(applications) != 1:
        sys.exit(f"The config must have one application; it has {len(applications)}.")
    try:
        return Settings.model_validate(applications[0].get("args") or {})
    except ValidationError as error:
        sys.exit(f"The settings are not valid: {_problems(error)}")


def _keys(settings: Settings) -> dict[str, str]:
    try:
        return configured_keys(settings, Secrets.from_environment())
    except ValidationError as error:
        sys.exit(f"The environment is not valid: {_problems(error)}")
    except ValueError as error:
        sys.exit(str(error))


def _problems(error: ValidationError) -> str:
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"]))) for problem in error.errors()
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is not between 1 and 65535")
    return port


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
