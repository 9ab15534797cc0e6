"""What a request's ASGI scope tells of it: its path, its id, and which API it speaks."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers
from starlette.types import Scope

PADDLEX_PATHS = ("/layout-parsing", "/restructure-pages")
SHARED_PATH = "/ocr"
"""Of the service and of PaddleX: which of them is meant, only the body tells."""

OFFICIAL_JOBS = "/api/v2/ocr/jobs"
SIGNED_FILES = "/files/"
"""Below it a link's signature stands in for a key."""


def request_id_of(scope: Scope) -> str:
    """The request's id; a fresh one where the client sent an id that may not be repeated."""
    state: dict[str, str] = scope.setdefault("state", {})
    return state.setdefault("request_id", uuid.uuid4().hex)


def path_of(scope: Scope) -> str:
    """The path below the application's route prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def may_be_paddlex(scope: Scope) -> bool:
    """Whether a request may be one of PaddleX's clients', by its headers: on the path that is shared, they send JSON."""
    path = path_of(scope)
    return path in PADDLEX_PATHS or (
        path == SHARED_PATH and "json" in Headers(scope=scope).get("content-type", "").partition(";")[0].lower()
    )


def is_paddlex(scope: Scope) -> bool:
    """Whether a request is known to be one of PaddleX's clients'."""
    return path_of(scope) in PADDLEX_PATHS or "log_id" in scope.get("state", {})


def note_paddlex(scope: Scope, log_id: str) -> None:
    """It is one, and `log_id` what its answer is labelled with."""
    scope.setdefault("state", {})["log_id"] = log_id
