"""A limit on a replica's memory. A replica over the limit finishes its work and is replaced.

Long-lived Paddle processes grow over hundreds of pages: users of Paddle's own server report 50 GB.
"""

from __future__ import annotations

import logging

import psutil

from serve_app.recognition.engines.engine import Engine
from serve_app.settings import EngineSettings, PaddleOcrVlSettings

log = logging.getLogger("ray.serve.recognizer")

MB = 1_000_000


def private_memory_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process without shared memory, in MB.

    Pages read from Ray's object store stay resident in the reader after they are freed, up to the size of the store.
    A limit on shared memory would therefore replace replicas that have not grown.
    """
    memory = process.memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / MB  # psutil reports it on Linux only


class MemoryLimitPassed(Exception):
    """Raised by the health check, so that Serve replaces the replica."""


class MemoryLimit:
    """Checks this process's memory against `memory_mb`, and its GPU memory against `gpu_memory_mb`.

    If the loaded engine alone exceeds a limit, the configuration is wrong and a new replica would exceed it too. Such a
    limit is logged and not enforced.
    """

    def __init__(self, settings: EngineSettings, engine: Engine) -> None:
        self._engine = engine
        self._limits = {
            "memory_mb": settings.memory_mb,
            "gpu_memory_mb": settings.gpu_memory_mb if isinstance(settings, PaddleOcrVlSettings) else None,
        }
        self._warned = False

    def drop_exceeded(self) -> None:
        """Drop the limits that this process already exceeds. Call it once the engine is loaded."""
        for name, used_mb in self._used().items():
            limit_mb = self._limits[name]
            if limit_mb is not None and used_mb > limit_mb:
                log.error(
                    "%s is %.0f, but the loaded engine already uses %.0f: the limit is not enforced",
                    name,
                    limit_mb,
                    used_mb,
                )
                self._limits[name] = None

    def check(self) -> None:
        """Raise MemoryLimitPassed if a limit is exceeded."""
        for name, used_mb in self._used().items():
            limit_mb = self._limits[name]
            if limit_mb is not None and used_mb > limit_mb:
                if not self._warned:
                    log.warning(
                        "%s: %.0f in use, the limit is %.0f; this replica finishes its work and is replaced",
                        name,
                        used_mb,
                        limit_mb,
                    )
                    self._warned = True
                raise MemoryLimitPassed(f"{name}: {used_mb:.0f} MB in use, the limit is {limit_mb:.0f}")

    def _used(self) -> dict[str, float]:
        used = {"memory_mb": private_memory_mb(psutil.Process())}
        if self._limits["gpu_memory_mb"] is not None and (gpu_mb := self._engine.gpu_memory_mb()) is not None:
            used["gpu_memory_mb"] = gpu_mb
        return used
