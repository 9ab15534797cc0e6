"""Counts the pages that end, for the metrics."""

from __future__ import annotations

from serve_app.document import PageResult
from serve_app.errors import ServiceError
from serve_app.metrics.catalogue import KEY_PAGES, PAGE_STAGE_SECONDS, PAGES


def count_page(result: PageResult | ServiceError, *, engine: str, owner: str) -> None:
    """Count a page and the time of its stages. `engine`: the one that was to read it. `owner`: the name of its key."""
    KEY_PAGES.inc(key=owner)
    if isinstance(result, ServiceError):
        PAGES.inc(engine=engine, outcome="failed", reason=result.code)
        return
    page, read_by = result.page, result.engine.name
    if "cache" in result.timings_ms:
        outcome, reason = "cached", ""
    elif page.degraded:
        outcome, reason = "degraded", page.warnings[0].code if page.warnings else ""
    else:
        outcome, reason = "done", ""
    PAGES.inc(engine=read_by, outcome=outcome, reason=reason)
    for stage, ms in result.timings_ms.items():
        PAGE_STAGE_SECONDS.observe(ms / 1000, stage=stage, engine=read_by)
