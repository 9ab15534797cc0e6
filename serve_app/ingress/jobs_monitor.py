"""Polls the Jobs deployment in the background, for /health."""

from __future__ import annotations

import asyncio
import logging
import time

from serve_app.errors import ServiceUnavailable
from serve_app.ingress.jobs_replicas import JobsReplicas
from serve_app.jobs.deployment import JobsReport

log = logging.getLogger("ray.serve.monitor")

POLL_S = 3.0
TIMEOUT_S = 5.0
AWAY_S = 8.0
"""Seconds without a response after which /health reports Jobs as away. Shorter gaps are normal while its replica is
replaced."""


class JobsMonitor:
    """Has the last `report` of the Jobs deployment; None before the first one."""

    def __init__(
        self,
        jobs: JobsReplicas,
        *,
        poll_s: float = POLL_S,
        timeout_s: float = TIMEOUT_S,
        away_s: float = AWAY_S,
    ) -> None:
        self._jobs = jobs
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._away_s = away_s
        self._responded_at = time.monotonic()
        self.report: JobsReport | None = None
        self._is_outage_logged = False

    @property
    def is_away(self) -> bool:
        return self.age_s > self._away_s

    @property
    def age_s(self) -> float:
        """Seconds since the last response."""
        return time.monotonic() - self._responded_at

    @property
    def store_reason(self) -> str | None:
        return self.report.store_reason if self.report is not None else None

    async def run(self) -> None:
        while True:
            try:
                self.report = await self._jobs.report(limit_s=self._timeout_s)
                self._responded_at = time.monotonic()
                if self._is_outage_logged:
                    log.warning("the Jobs deployment responds again")
                self._is_outage_logged = False
            except ServiceUnavailable:
                if self.is_away and not self._is_outage_logged:
                    log.warning(
                        "the Jobs deployment has not responded for %.0f s, as happens while it is replaced; "
                        "accepted jobs go on once it does",
                        self._away_s,
                    )
                    self._is_outage_logged = True
            await asyncio.sleep(self._poll_s)
