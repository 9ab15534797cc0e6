"""Spans that this process records: those of a trace that a client asks for, and those of jobs if a test wants them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult


class _RootSampler(Sampler):
    """Decides about traces that begin in this process."""

    def __init__(self) -> None:
        self.is_on = False

    def should_sample(self, *arguments: Any, **named: Any) -> SamplingResult:
        return (ALWAYS_ON if self.is_on else ALWAYS_OFF).should_sample(*arguments, **named)

    def get_description(self) -> str:
        return "those that a test wants"


_ROOTS = _RootSampler()


@cache  # a process has one provider
def _exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(_ROOTS))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


class Trace:
    """A trace. A request with `headers` is part of it."""

    def __init__(self, trace_id: str | None = None) -> None:
        """By default a new one."""
        _exporter()
        self.id = trace_id or secrets.token_hex(16)
        self.headers = {"traceparent": f"00-{self.id}-{secrets.token_hex(8)}-01"}

    def spans(self) -> Sequence[ReadableSpan]:
        """Return the spans that have ended, in this order."""
        return [span for span in _exporter().get_finished_spans() if _trace_id(span) == self.id]


@contextmanager
def every_trace() -> Iterator[None]:
    """Record each trace that begins meanwhile."""
    _exporter()
    _ROOTS.is_on = True
    try:
        yield
    finally:
        _ROOTS.is_on = False


def trace_of_job(job_id: str) -> Trace | None:
    """Return the trace of a job that has ended; None if there is none yet."""
    for span in _exporter().get_finished_spans():
        if span.name == "job" and (span.attributes or {})["request_id"] == job_id:
            return Trace(_trace_id(span))
    return None


def _trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"
