"""Spans of OpenTelemetry for the stages of requests and jobs. Serve's `tracing_config` turns them on, and exports them.

A stage is a span only within one that is recorded: Serve's span of a call to a replica, or that of a job. So nothing but a
look at the context is done for what is not traced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context

from serve_app.runtime.request_context import request_id

_tracer = trace.get_tracer("serve_app")

Value = str | int | float


@contextmanager
def stage(name: str, **attributes: Value) -> Iterator[None]:
    """Trace what happens within the block. An error ends the span with this status, and is raised."""
    if not trace.get_current_span().is_recording():
        yield
        return
    with _tracer.start_as_current_span(name, attributes={"request_id": request_id(), **attributes}):
        yield


def past_stage(name: str, seconds: float, *, ended_s: float = 0.0, **attributes: Value) -> None:
    """Trace a stage that took so many seconds, and ended `ended_s` seconds ago."""
    if not trace.get_current_span().is_recording():
        return
    end = time.time_ns() - int(ended_s * 1e9)
    attributes = {"request_id": request_id(), **attributes}
    _tracer.start_span(name, start_time=end - int(seconds * 1e9), attributes=attributes).end(end)


@contextmanager
def job(job_id: str) -> Iterator[None]:
    """Trace a job, which outlives the request that submitted it: it has a trace of its own."""
    with _tracer.start_as_current_span("job", context=Context(), attributes={"request_id": job_id}):
        yield
