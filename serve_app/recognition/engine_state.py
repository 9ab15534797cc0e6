"""The state of an engine, as its replica reports it and /health shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.recognition.engines.engine import VlmServerState


class EnginePhase(StrEnum):
    """Values of `paddleocr` in /health, the same as those of the service that this one replaces."""

    NOT_INITIALIZED = "not_initialized"
    INITIALIZING = "initializing"
    INITIALIZED = "initialized"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineState:
    """The state of a replica's engine. `reason` says why it has FAILED, or why there is no replica; else it is None.

    `vlm_server` is the state of the engine's inference server; None if the engine uses none. `page_s`: seconds of work that a
    page takes the replica; 0 while unknown.
    """

    replica: str
    phase: EnginePhase
    version: str | None = None
    reason: str | None = None
    vlm_server: VlmServerState | None = None
    page_s: float = 0.0
