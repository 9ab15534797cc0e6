"""Checks of the config and of the secrets in the environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from serve_app.cli.config import ConfigError, secrets_of_environment
from serve_app.cli.doctor.finding import Code, Finding, ok, problem, warning
from serve_app.cli.settings_problems import settings_problems
from serve_app.ingress.keys import parse_keys
from serve_app.settings import Secrets, Settings, resolve

CONFIG, SECRETS = "configuration", "secrets"


def on_cluster(raw: dict[str, Any]) -> bool:
    """Whether the config is for several nodes: it has a proxy on each."""
    return bool(raw.get("proxy_location", "EveryNode") == "EveryNode")


def check_config(config: str, raw: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """Check what is Serve's own in a config whose settings are valid."""
    # Takes a second or two, since it imports Ray.
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        # Messages about `runtime_env` may have values of its environment.
        safe = [each for each in error.errors() if "runtime_env" not in each["loc"]]
        reason = settings_problems(error) if len(safe) == error.error_count() else "look at runtime_env"
        yield problem(CONFIG, Code.CONFIG_INVALID, f"Ray Serve refuses {config}: {reason}")
        return
    ignored = sorted(set(raw) - set(ServeDeploySchema.model_fields))
    if ignored:
        yield warning(
            CONFIG, Code.CONFIG_NAME_UNKNOWN, f"Ray Serve ignores {', '.join(ignored)} of {config}: correct the name"
        )
    (application,) = raw["applications"]
    known = {"Ingress", "Jobs", "Rasterizer", *(f"Recognizer-{engine.name}" for engine in settings.engines)}
    unknown = sorted({str(each.get("name")) for each in application.get("deployments") or []} - known)
    if unknown:
        yield problem(
            CONFIG,
            Code.CONFIG_NAME_UNKNOWN,
            f"the service has no deployment {', '.join(unknown)}: deployments are {', '.join(sorted(known))}",
        )
    if not ignored and not unknown:
        yield ok(CONFIG, f"{config} is valid")


def check_secrets(raw: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """Check the environment. No key is made."""
    try:
        secrets = secrets_of_environment()
        names = list(parse_keys(secrets.api_keys.get_secret_value())) if secrets.api_keys is not None else []
    except (ConfigError, ValueError) as error:
        yield problem(SECRETS, Code.SECRETS_INVALID, f"{error}; correct it in the environment")
        return
    others = [f"OCR_{name.upper()}" for name in Secrets.model_fields if name != "api_keys" and getattr(secrets, name)]
    is_set = f"; set: {', '.join(others)}" if others else ""
    if names:
        yield ok(SECRETS, f"OCR_API_KEYS has {', '.join(names)}{is_set}")
        return
    file = resolve(settings.api_key_file)
    if on_cluster(raw):
        yield warning(
            SECRETS,
            Code.KEYS_NOT_SHARED,
            f"OCR_API_KEYS is not set, and each node would make a key of its own: set it on every node{is_set}",
        )
        return
    try:
        is_empty = file.exists() and not file.read_text().strip()
    except (OSError, ValueError):
        yield problem(
            SECRETS, Code.SECRETS_INVALID, f"the file of the API key, {file}, cannot be read: correct its owner"
        )
        return
    if is_empty:
        yield problem(SECRETS, Code.SECRETS_INVALID, f"the file of the API key, {file}, is empty: remove it")
    else:
        yield ok(SECRETS, f"the API key {'is in' if file.exists() else 'will be made in'} {file}{is_set}")
