"""Memory of the service's processes during a benchmark."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks.service import role_of


@dataclass(frozen=True)
class MemoryPeaks:
    """Peaks of memory during one watch, in MB.

    `by_role`: own memory of the processes of one role together; `total`: own memory of all processes together;
    `object_store`: shared memory of Ray's object store.
    """

    by_role: dict[str, float]
    total: float
    object_store: float


class MemoryWatch:
    """Context manager that samples the memory of the service's processes every SAMPLE_S seconds, in a thread.

    Own memory is what serve_app.recognition.memory_limit limits, plus its swapped part. Pages of Ray's object store are
    left out: they count as resident in each process that has read them, but exist once.
    """

    SAMPLE_S = 0.1

    def __init__(self, service: psutil.Process, *, ray: bool = True) -> None:
        """`ray`: whether the service runs on Ray, and so has an object store."""
        self._service = service
        self._store = _object_store(service) if ray else None
        self._by_role: dict[str, float] = defaultdict(float)
        self._total = self._object_store = 0.0
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def peaks(self) -> MemoryPeaks:
        """The peaks, after the watch has ended. Raises the error that stopped the watch, if any."""
        if self._failure is not None:
            raise self._failure
        return MemoryPeaks(dict(self._by_role), self._total, self._object_store)

    def _run(self) -> None:
        try:
            while True:
                self._look()
                if self._stop.wait(self.SAMPLE_S):
                    return
        except Exception as error:
            self._failure = error

    def _look(self) -> None:
        now: dict[str, float] = defaultdict(float)
        lines: dict[int, list[str]] = {}
        for process in [self._service, *self._service.children(recursive=True)]:  # parents before their children
            try:
                line = lines[process.pid] = process.cmdline()
                # Until a child has executed its own program, it has its parent's command line and shares its memory.
                if lines.get(process.ppid()) != line:
                    now[role_of(" ".join(line))] += _own_mb(process.pid)
            except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                continue
        for role, mb in now.items():
            self._by_role[role] = max(self._by_role[role], mb)
        self._total = max(self._total, sum(now.values()))
        if self._store is not None:
            self._object_store = max(self._object_store, self._store.stat().st_blocks * 512 / 1e6)


def _own_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:"))) * 1024 / 1e6


def _object_store(service: psutil.Process) -> Path:
    """The file of Ray's object store: it is unlinked, but the raylet has it open."""
    for process in service.children(recursive=True):
        if role_of(" ".join(process.cmdline())) == "raylet":
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                if "/plasma" in os.readlink(descriptor):
                    return descriptor
    raise RuntimeError("Ray's object store was not found")
