"""Metrics of one replica's engine that are states, not events."""

from __future__ import annotations

from serve_app.metrics.catalogue import ENGINE_BUSY_SECONDS, ENGINE_LOAD_SECONDS, ENGINE_STATE, VLM_SERVER_UP
from serve_app.recognition.engine_state import EnginePhase
from serve_app.recognition.engines.engine import Engine


class EngineMetrics:
    """Sets the metrics of an engine. Its replica calls `measure` regularly: Ray drops gauges that are not set again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counted_s = 0.0

    def loaded(self, worked_s: float) -> None:
        """Leave out the `worked_s` seconds until now: loading is no work on pages."""
        self._counted_s = worked_s

    def measure(self, phase: EnginePhase, *, load_s: float, worked_s: float) -> None:
        """Set the metrics. `load_s`: seconds of loading; `worked_s`: seconds for which the replica has worked so far."""
        name = self._engine.name
        for each in EnginePhase:
            ENGINE_STATE.set(each is phase, engine=name, phase=each)
        if phase is not EnginePhase.INITIALIZED:
            return
        ENGINE_LOAD_SECONDS.set(load_s, engine=name)
        # A clock that another thread is stopping lags behind for a moment.
        ENGINE_BUSY_SECONDS.inc(max(0.0, worked_s - self._counted_s), engine=name)
        self._counted_s = max(worked_s, self._counted_s)
        if (server := self._engine.vlm_server()) is not None:
            VLM_SERVER_UP.set(server.available, engine=name)
