"""Reads a Serve config, the settings of its application and the API keys, for the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.cli.settings_problems import settings_problems
from serve_app.ingress.keys import configured_keys
from serve_app.settings import Secrets, Settings, with_environment


class ConfigError(Exception):
    """A config, or its environment, cannot be used. The message is one line for the operator, without values of the file."""


def load_config(path: str, **http_options: Any) -> dict[str, Any]:
    """Read a Serve config, with the defaults of `http_options` and then those of the caller that are not None.

    Raises ConfigError.
    """
    try:
        raw: Any = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"Cannot read {path}: {where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"Cannot read {path}: it is not YAML in UTF-8") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not a Serve config: it has no applications.")
    given = raw.get("http_options") or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: http_options is not a mapping.")
    overrides = {name: value for name, value in http_options.items() if value is not None}
    raw["http_options"] = {"host": "127.0.0.1", "port": 8081, **given, **overrides}
    return raw


def settings_of(raw: dict[str, Any]) -> Settings:
    """Return the settings of the config's application, and check those of the environment. Raises ConfigError."""
    applications = raw.get("applications") or []
    if not isinstance(applications, list) or not all(isinstance(each, dict) for each in applications):
        raise ConfigError("The config's applications are not a list of mappings.")
    if len(applications) != 1:
        raise ConfigError(f"The config must have exactly one application; it has {len(applications)}.")
    try:
        settings = Settings.model_validate(applications[0].get("args") or {})
    except ValidationError as error:
        raise ConfigError(f"The settings are not valid: {settings_problems(error)}") from error
    try:
        with_environment(settings)
    except ValidationError as error:
        raise ConfigError(f"OCR_OPEN_SURFACES or OCR_PUBLIC_URL is not valid: {settings_problems(error)}") from error
    return settings


def secrets_of_environment() -> Secrets:
    """Return the secrets. Raises ConfigError."""
    try:
        return Secrets.from_environment()
    except ValidationError as error:
        raise ConfigError(f"The environment is not valid: {settings_problems(error)}") from error


def keys_of(settings: Settings) -> dict[str, str]:
    """Return the API keys by name; without OCR_API_KEYS, the generated one, which is made if there is none. Raises ConfigError."""
    try:
        return configured_keys(settings, secrets_of_environment())
    except ValueError as error:
        raise ConfigError(str(error)) from error
