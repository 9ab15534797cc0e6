"""A limit on a replica's memory: one that has grown past it finishes its work and is replaced.

Long-lived processes of Paddle grow over hundreds of pages: users of its own server tell of 50 GB.
"""

from __future__ import annotations

import logging

import psutil

from serve_app.recognition.engines.engine import Engine
from serve_app.settings import EngineSettings, PaddleOcrVlSettings

log = logging.getLogger("ray.serve.recognizer")

MB = 1_000_000


def own_memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process, in MB, without what it shares with others.

    Every page that was ever read from Ray's object store counts as resident in its reader, though it is
    long freed: up to the size of the store. A limit on that would replace replicas that have not grown.
    """
    memory = process.memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / MB  # only Linux tells


class MemoryLimitPassed(Exception):
    """What Serve is told by the health check; it then replaces the replica."""


class MemoryLimit:
    """Compares a process with `memory_mb`, and its part of the GPU with `gpu_memory_mb`.

    A limit that the engine passes by being loaded is a mistake of the configuration; replacing the
    replica would not mend it, so it is only logged.
    """

    def __init__(self, settings: EngineSettings, engine: Engine) -> None:
        self._engine = engine
        self._limits = {
            "memory_mb": settings.memory_mb,
            "gpu_memory_mb": settings.gpu_memory_mb if isinstance(settings, PaddleOcrVlSettings) else None,
        }
        self._warned = False

    def loaded(self) -> None:
        """To be called when the engine has loaded."""
        for name, used_mb in self._used().items():
            limit_mb = self._limits[name]
            if limit_mb is not None and used_mb > limit_mb:
                log.error("%s is %.0f, but the loaded engine takes %.0f: not enforced", name, limit_mb, used_mb)
                self._limits[name] = None

    def check(self) -> None:
        """Raises MemoryLimitPassed."""
        for name, used_mb in self._used().items():
            limit_mb = self._limits[name]
            if limit_mb is not None and used_mb > limit_mb:
                if not self._warned:
                    log.warning(
                        "%s: %.0f are used, the limit is %.0f; this replica finishes its work and is replaced",
                        name,
                        used_mb,
                        limit_mb,
                    )
                    self._warned = True
                raise MemoryLimitPassed(f"{name}: {used_mb:.0f} MB are used, the limit is {limit_mb:.0f}")

    def _used(self) -> dict[str, float]:
        used = {"memory_mb": own_memory_mb(psutil.Process())}
        if self._limits["gpu_memory_mb"] is not None and (gpu_mb := self._engine.gpu_memory_mb()) is not None:
            used["gpu_memory_mb"] = gpu_mb
        return used
