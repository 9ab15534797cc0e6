"""The id of the present request, as Serve keeps it: in log lines, and in the calls to other replicas.

Serve has no public way to it; Ray is pinned.
"""

from __future__ import annotations

from dataclasses import replace

from ray.serve import context


def request_id() -> str:
    """Return the id; empty outside a request."""
    return context._get_serve_request_context().request_id


def use_request_id(request_id: str) -> None:
    """Use this id from now on, and in what the present task starts."""
    present = context._get_serve_request_context()
    context._serve_request_context.set(replace(present, request_id=request_id))  # type: ignore[arg-type]
