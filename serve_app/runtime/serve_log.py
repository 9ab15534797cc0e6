"""What Serve logs in a replica."""

from __future__ import annotations

import logging


def leave_out_internals() -> None:
    """Drop lines of Serve in this process that say nothing to operators."""
    logging.getLogger("ray.serve").addFilter(_is_for_operators)


def _is_for_operators(record: logging.LogRecord) -> bool:
    """Whether a log line is of use. When a replica makes its first calls, Serve logs the address of an internal object, and how
    it spreads sessions.
    """
    is_about_sessions = record.module == "consistent_hash_router" and record.levelno <= logging.INFO
    return not is_about_sessions and "SharedRouterLongPollClient" not in record.getMessage()
