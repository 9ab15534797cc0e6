"""Checks of Ray: its version, and the token without which it can be used by anybody who reaches it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from serve_app.cli.doctor.configuration import on_cluster
from serve_app.cli.doctor.finding import Code, Finding, ok, problem, warning
from serve_app.cli.doctor.variables import variable


def check_ray(raw: dict[str, Any]) -> Iterator[Finding]:
    yield judge_version(version("ray"), requires("paddleocr-vl-serve") or [])
    yield check_token(cluster=on_cluster(raw))


def judge_version(installed: str, requirements: list[str]) -> Finding:
    """Compare Ray's version with the one that this package requires, as `ray[serve]==2.60.0`."""
    needed = next(
        (found[1] for each in requirements if (found := re.match(r"ray\[serve\]==([\w.]+)", each))), installed
    )
    if installed != needed:
        return problem(
            "Ray version",
            Code.RAY_VERSION_WRONG,
            f"Ray {installed} is installed, and this package needs {needed}: install it on every node",
        )
    return ok("Ray version", f"Ray {installed}; every node needs the same")


def check_token(*, cluster: bool) -> Finding:
    """Look for Ray's token where Ray does: in RAY_AUTH_TOKEN, in the file of RAY_AUTH_TOKEN_PATH, in the home directory."""
    check = "Ray token"
    mode = (variable("RAY_AUTH_MODE") or "").lower()
    if mode == "disabled":
        return warning(
            check,
            Code.RAY_TOKEN_OFF,
            "RAY_AUTH_MODE is disabled, so whoever reaches Ray's ports can run code: set it to token",
        )
    if variable("RAY_AUTH_TOKEN"):
        return ok(check, "it is in RAY_AUTH_TOKEN; every node needs the same")
    named = variable("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        found = bool(file.read_text().strip())
    except (OSError, ValueError):
        found = False
    if found:
        return ok(check, f"it is in {file}; every node needs the same")
    if named:
        return problem(
            check, Code.RAY_TOKEN_MISSING, f"{file}, which RAY_AUTH_TOKEN_PATH names, has none: correct the path"
        )
    if cluster:
        return warning(
            check,
            Code.RAY_TOKEN_MISSING,
            "there is none: set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN for `ray start`, `serve` and `ray` on every node",
        )
    return ok(check, f"it will be made in {file}")
