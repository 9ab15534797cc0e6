"""Serve's own lines in the log of a replica."""

from __future__ import annotations

import logging

import pytest
from ray.serve._private.router import SharedRouterLongPollClient
from ray.serve.experimental import consistent_hash_router

from serve_app.runtime.serve_log import _is_for_operators

SESSIONS = consistent_hash_router.__file__


@pytest.mark.parametrize(
    ("file", "level", "message", "logged"),
    [
        ("router.py", logging.INFO, f"Started {object.__new__(SharedRouterLongPollClient)}.", False),
        (SESSIONS, logging.INFO, "ConsistentHashRouter initialized", False),
        (SESSIONS, logging.WARNING, "no replica", True),
        ("replica.py", logging.INFO, "CALL view OK 1.0ms", True),
    ],
    ids=["internal object", "sessions", "trouble with sessions", "call"],
)
def test_what_says_nothing_to_operators_is_not_logged(file: str, level: int, message: str, logged: bool) -> None:
    record = logging.LogRecord("ray.serve", level, file, 1, message, (), None)
    assert _is_for_operators(record) is logged
