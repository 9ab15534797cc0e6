"""What routes work with; one for each ingress replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from serve_app.errors import QueueFull
from serve_app.ingress.documents import Documents
from serve_app.ingress.fetch import Fetcher
from serve_app.ingress.monitors import EngineMonitor, StoreMonitor
from serve_app.settings import Settings
from serve_app.storage.store import Store


class Admission:
    """A bound on the requests that are held at once; over it they are refused before they are read."""

    def __init__(self, limit: int, *, retry_after_s: int = 5) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._held = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._held >= self._limit:
            raise QueueFull(retry_after_s=self._retry_after_s)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1


@dataclass(frozen=True)
class Context:
    settings: Settings
    documents: Documents
    fetcher: Fetcher
    engines: Mapping[str, EngineMonitor]
    store: Store
    store_monitor: StoreMonitor
    admission: Admission
    temp_dir: Path


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context
