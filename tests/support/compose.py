"""docker-compose.yaml as Compose reads it: with the variables of `.env`, and with the file for a GPU on top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE, GPU = ROOT / "docker-compose.yaml", ROOT / "docker-compose.gpu.yaml"
EXAMPLE = ROOT / ".env.example"

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(file: Path, variables: Mapping[str, str]) -> str:
    """The text of a Compose file with the values in place. A variable that is missing or empty is a KeyError."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        found = variables.get(name) or (rest if operator == "-" else None)
        if not found:
            raise KeyError(name)
        return found

    return _VARIABLE.sub(value, file.read_text())


def variables_of(file: Path) -> set[str]:
    return {match[1] for match in _VARIABLE.finditer(file.read_text())}


def compose_project(variables: Mapping[str, str], *, gpu: bool) -> dict[str, Any]:
    project: dict[str, Any] = {}
    for file in (COMPOSE, GPU) if gpu else (COMPOSE,):
        project = _merged(project, yaml.safe_load(interpolated(file, variables)))
    return project


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        elif key == "volumes" and isinstance(
            value, list
        ):  # a service's; of other lists, such as the command, the last one counts
            result[key] = [*result.get(key, []), *value]
        else:
            result[key] = value
    return result
