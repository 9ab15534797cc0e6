"""What /health believes of the Jobs deployment."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.ingress.jobs_monitor import JobsMonitor
from serve_app.ingress.jobs_replicas import JobsReplicas
from serve_app.jobs.deployment import JobsReport

REPORT = JobsReport(running=1, waiting=2, store_reason=None)


async def test_a_long_silence_is_away_and_is_logged_once_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve.monitor")
    responds = asyncio.Event()
    responds.set()

    async def report() -> JobsReport:
        await responds.wait()
        return REPORT

    jobs: Any = SimpleNamespace(report=SimpleNamespace(remote=report))
    monitor = JobsMonitor(JobsReplicas(jobs), poll_s=0.01, timeout_s=0.05, away_s=0.5)
    watch = asyncio.create_task(monitor.run())

    async def until(away: bool) -> None:
        for _ in range(500):
            if monitor.is_away is away:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"is_away is still {not away}")

    try:
        await asyncio.sleep(0.05)
        assert (monitor.report, monitor.is_away) == (REPORT, False)
        responds.clear()
        await until(away=True)
        await asyncio.sleep(0.2)
        (silent,) = caplog.messages
        assert "has not responded for" in silent and "while it is replaced" in silent
        responds.set()
        await until(away=False)
        assert caplog.messages[1:] == ["the Jobs deployment responds again"]
    finally:
        watch.cancel()
