"""Properties of a request's ASGI scope: its path, its id, and whether it uses PaddleX's API."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers
from starlette.types import Scope

PADDLEX_PATHS = ("/layout-parsing", "/restructure-pages")
SHARED_PATH = "/ocr"
"""A path of this service's API and of PaddleX's. Only the body shows which one a request uses."""

OFFICIAL_JOBS = "/api/v2/ocr/jobs"
PROBES = ("/livez", "/readyz")
"""For load balancers and Kubernetes, which have no API key."""

SIGNED_FILES = "/files/"
"""Prefix of signed links, which need no API key."""


def request_id_of(scope: Scope) -> str:
    """Return the request's id. Generate one if there is none yet, or if the client's is malformed."""
    state: dict[str, str] = scope.setdefault("state", {})
    return state.setdefault("request_id", uuid.uuid4().hex)


def path_of(scope: Scope) -> str:
    """Return the path below the application's route prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def may_be_paddlex(scope: Scope) -> bool:
    """Whether a request may use PaddleX's API, judged by path and headers: on the shared path its clients send JSON."""
    path = path_of(scope)
    return path in PADDLEX_PATHS or (
        path == SHARED_PATH and "json" in Headers(scope=scope).get("content-type", "").partition(";")[0].lower()
    )


def is_paddlex(scope: Scope) -> bool:
    """Whether a request is known to use PaddleX's API."""
    return path_of(scope) in PADDLEX_PATHS or "log_id" in scope.get("state", {})


def mark_paddlex(scope: Scope, log_id: str) -> None:
    """Mark a request as one that uses PaddleX's API. `log_id` labels its response."""
    scope.setdefault("state", {})["log_id"] = log_id
