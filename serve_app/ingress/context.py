"""What routes work with; one for each ingress replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from ray.serve.handle import DeploymentHandle

from serve_app.admission import Admission
from serve_app.backend import Backend
from serve_app.documents import Documents
from serve_app.fetching.fetch import Fetcher
from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.jobs.ledger import Ledger
from serve_app.settings import Settings
from serve_app.storage.links import Links


@dataclass(frozen=True)
class Context:
    settings: Settings
    backend: Backend
    links: Links
    fetcher: Fetcher
    admission: Admission
    ledger: Ledger
    jobs: DeploymentHandle[Any]
    jobs_monitor: JobsMonitor
    has_webhook_secret: bool

    @property
    def documents(self) -> Documents:
        return self.backend.documents


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context
