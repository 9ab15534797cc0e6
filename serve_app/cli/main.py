"""The command line, `python -m serve_app`: parses arguments and runs a command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.cli.doctor import check_machine
from serve_app.cli.metrics_table import metrics_page
from serve_app.cli.models import check_models, pull_models
from serve_app.cli.openapi import openapi_document
from serve_app.cli.serve import run
from serve_app.cli.settings_problems import settings_problems
from serve_app.cli.settings_table import settings_page
from serve_app.ingress.keys import configured_keys
from serve_app.settings import Secrets, Settings, with_environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serve_app", description="PaddleOCR-VL Serve")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the service on this machine until Ctrl-C")
    serve.add_argument("config", help="a Serve config, such as configs/local.yaml")
    serve.add_argument("--host", help="address to listen on; overrides the config")
    serve.add_argument("--port", type=_port, help="HTTP port; overrides the config")
    serve.set_defaults(run=lambda arguments: _serve(arguments.config, arguments.host, arguments.port))
    key = commands.add_parser("key", help="print the API key: the first one of OCR_API_KEYS, or the generated one")
    key.add_argument("config", nargs="?", default="configs/local.yaml")
    key.set_defaults(run=lambda arguments: print(next(iter(_keys(_settings(_load(arguments.config))).values()))))
    table = commands.add_parser("settings", help="print docs/configuration.md: every setting with its default")
    table.set_defaults(run=lambda arguments: print(settings_page(), end=""))
    metrics = commands.add_parser("metrics", help="print docs/metrics.md: every metric with its labels")
    metrics.set_defaults(run=lambda arguments: print(metrics_page(), end=""))
    openapi = commands.add_parser("openapi", help="print docs/openapi.json: the description of the HTTP API")
    openapi.set_defaults(run=lambda arguments: print(openapi_document(), end=""))
    doctor = commands.add_parser(
        "doctor", help="check this machine for what a config needs; exit status 1 if it lacks something"
    )
    doctor.add_argument("config", nargs="?", default="configs/local.yaml")
    doctor.set_defaults(
        run=lambda arguments: sys.exit(check_machine(_settings(_load(arguments.config)), config=arguments.config))
    )
    models = commands.add_parser("models", help="check or download the models of the engine paddleocr-vl")
    actions = models.add_subparsers(required=True)
    for name, action, text in (
        ("check", check_models, "print where each model of a config is; exit status 1 if one is missing"),
        ("pull", pull_models, "download a config's missing models into Paddle's cache"),
    ):
        command = actions.add_parser(name, help=text)
        command.add_argument("config", help="a Serve config, such as configs/gpu.yaml")
        command.set_defaults(
            run=lambda arguments, action=action: sys.exit(
                action(_settings(_load(arguments.config)), config=arguments.config)
            )
        )
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:  # there was nothing to stop yet
        sys.exit(130)


def _serve(config: str, host: str | None, port: int | None) -> None:
    raw = _load(config, host=host, port=port)
    settings = _settings(raw)
    run(raw, settings, _keys(settings))


def _load(config: str, **http_options: Any) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = yaml.safe_load(Path(config).read_text())
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"Cannot read {config}: {error}")
    if not isinstance(raw, dict):
        sys.exit(f"{config} is not a Serve config: it has no applications.")
    overrides = {name: value for name, value in http_options.items() if value is not None}
    raw["http_options"] = {"host": "127.0.0.1", "port": 8081, **(raw.get("http_options") or {}), **overrides}
    return raw


def _settings(raw: dict[str, Any]) -> Settings:
    applications = raw.get("applications") or []
    if len(applications) != 1:
        sys.exit(f"The config must have exactly one application; it has {len(applications)}.")
    try:
        settings = Settings.model_validate(applications[0].get("args") or {})
    except ValidationError as error:
        sys.exit(f"The settings are not valid: {settings_problems(error)}")
    try:
        with_environment(settings)
    except ValidationError as error:
        sys.exit(f"OCR_OPEN_SURFACES or OCR_PUBLIC_URL is not valid: {settings_problems(error)}")
    return settings


def _keys(settings: Settings) -> dict[str, str]:
    try:
        return configured_keys(settings, Secrets.from_environment())
    except ValidationError as error:
        sys.exit(f"The environment is not valid: {settings_problems(error)}")
    except ValueError as error:
        sys.exit(str(error))


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 1 and 65535")
    return int(text)
