"""The command line, `python -m serve_app`: parses arguments and runs a command."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from serve_app.cli.config import ConfigError, keys_of, load_config, settings_of
from serve_app.cli.doctor.examination import check_machine
from serve_app.cli.metrics_table import metrics_page
from serve_app.cli.models import check_models, pull_models
from serve_app.cli.openapi import openapi_document
from serve_app.cli.serve import run
from serve_app.cli.settings_table import settings_page


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
    key.set_defaults(
        run=lambda arguments: print(next(iter(keys_of(settings_of(load_config(arguments.config))).values())))
    )
    table = commands.add_parser("settings", help="print docs/configuration.md: every setting with its default")
    table.set_defaults(run=lambda arguments: print(settings_page(), end=""))
    metrics = commands.add_parser("metrics", help="print docs/metrics.md: every metric with its labels")
    metrics.set_defaults(run=lambda arguments: print(metrics_page(), end=""))
    openapi = commands.add_parser("openapi", help="print docs/openapi.json: the description of the HTTP API")
    openapi.set_defaults(run=lambda arguments: print(openapi_document(), end=""))
    doctor = commands.add_parser(
        "doctor",
        help="check this machine for what a config needs, and say what to do; exit status 1 if there is a problem",
    )
    doctor.add_argument("config", nargs="?", default="configs/local.yaml")
    doctor.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    doctor.set_defaults(run=lambda arguments: _doctor(arguments.config, arguments.json))
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
                action(settings_of(load_config(arguments.config)), config=arguments.config)
            )
        )
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except ConfigError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # there was nothing to stop yet
        sys.exit(130)


def _serve(config: str, host: str | None, port: int | None) -> None:
    raw = load_config(config, host=host, port=port)
    settings = settings_of(raw)
    run(raw, settings, keys_of(settings))


def _doctor(config: str, as_json: bool) -> None:
    logging.disable()  # the lines say it
    status = check_machine(config, as_json=as_json)
    sys.stdout.flush()
    os._exit(status)  # a check that hangs, as at a dead network disk, must not keep the command


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 1 and 65535")
    return int(text)
