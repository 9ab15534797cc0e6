"""The Jobs deployment by itself."""

from __future__ import annotations

import logging

import pytest
from ray.serve._private.router import SharedRouterLongPollClient

from serve_app.jobs.deployment import _is_for_operators


@pytest.mark.parametrize(
    ("message", "logged"),
    [(f"Started {object.__new__(SharedRouterLongPollClient)}.", False), ("CALL view OK 1.0ms", True)],
    ids=["internal object", "call"],
)
def test_serves_line_about_an_internal_object_is_not_logged(message: str, logged: bool) -> None:
    record = logging.LogRecord("ray.serve", logging.INFO, "router.py", 1, message, (), None)
    assert _is_for_operators(record) is logged
