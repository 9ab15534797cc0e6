"""What routes work with; one for each ingress replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from serve_app.admission import Admission
from serve_app.documents import Documents
from serve_app.ingress.fetch import Fetcher
from serve_app.ingress.links import Links
from serve_app.ingress.monitors import EngineMonitor
from serve_app.settings import Settings
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.store import Store


@dataclass(frozen=True)
class Context:
    settings: Settings
    documents: Documents
    fetcher: Fetcher
    engines: Mapping[str, EngineMonitor]
    store: Store
    store_monitor: StoreMonitor
    links: Links
    admission: Admission
    temp_dir: Path


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context
