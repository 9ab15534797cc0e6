"""Timings: how long a request takes, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from serve_app.metrics.catalogue import DOCUMENT_STAGE_SECONDS
from serve_app.runtime import tracing


class Timings:
    """Starts when it is made. Stages are in milliseconds; those of a document's pages add up."""

    def __init__(self, *, started: float | None = None) -> None:
        """`started` is a value of `time.perf_counter`, by default now."""
        self._started = time.perf_counter() if started is None else started
        self._stages: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started

    @property
    def elapsed_ms(self) -> float:
        return round(self.elapsed_s * 1000, 1)

    def add(self, stages: Mapping[str, float]) -> None:
        for stage, ms in stages.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + ms

    def add_elapsed(self, stage: str) -> None:
        """Count all time since the start as this stage."""
        seconds = self.elapsed_s
        self._add_measured(stage, seconds)
        tracing.past_stage(stage, seconds)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time within the `with` block. A block that raises is not added."""
        started = time.perf_counter()
        with tracing.stage(stage):
            yield
        self._add_measured(stage, time.perf_counter() - started)

    def _add_measured(self, stage: str, seconds: float) -> None:
        self.add({stage: seconds * 1000})
        DOCUMENT_STAGE_SECONDS.observe(seconds, stage=stage)

    def stages_ms(self) -> dict[str, float]:
        return {stage: round(ms, 1) for stage, ms in self._stages.items()}
