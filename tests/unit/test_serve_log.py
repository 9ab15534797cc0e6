"""Serve's own lines in the log of a replica."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from ray.serve._private.router import SharedRouterLongPollClient
from ray.serve.experimental import consistent_hash_router

from serve_app.runtime.serve_log import PrintableRecords, _is_for_operators

SESSIONS = consistent_hash_router.__file__


@pytest.mark.parametrize(
    ("file", "level", "message", "logged"),
    [
        ("router.py", logging.INFO, f"Started {object.__new__(SharedRouterLongPollClient)}.", False),
        (SESSIONS, logging.INFO, "ConsistentHashRouter initialized", False),
        (SESSIONS, logging.WARNING, "no replica", True),
        ("replica.py", logging.INFO, "Finished initializing replica.", True),
    ],
    ids=["internal object", "sessions", "trouble with sessions", "start"],
)
def test_what_says_nothing_to_operators_is_not_logged(file: str, level: int, message: str, logged: bool) -> None:
    record = logging.LogRecord("ray.serve", level, file, 1, message, (), None)
    assert _is_for_operators(record) is logged


def test_calls_are_left_out_as_requests_have_lines_of_their_own() -> None:
    call = logging.makeLogRecord({"msg": "CALL view OK 1.0ms", "serve_access_log": True})
    assert not _is_for_operators(call)


@pytest.fixture
def text() -> Iterator[io.StringIO]:
    """What a logger `forged` writes."""
    text, factory, log = io.StringIO(), logging.getLogRecordFactory(), logging.getLogger("forged")
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("INFO %(message)s"))
    logging.setLogRecordFactory(PrintableRecords(factory))
    log.addHandler(handler)
    yield text
    log.removeHandler(handler)
    logging.setLogRecordFactory(factory)


def test_text_of_a_client_makes_no_further_line(text: io.StringIO) -> None:
    logging.getLogger("forged").warning("файл %s", "a\nINFO b\r\x1b[2J\u2028\x85 \ud800")
    assert text.getvalue() == "INFO файл a\\nINFO b\\r\\x1b[2J\\u2028\\x85 \\ud800\n"


def test_text_of_a_client_in_an_error_makes_no_line_that_begins_like_one(text: io.StringIO) -> None:
    try:
        raise ValueError("a\nINFO b\x1b")
    except ValueError:
        logging.getLogger("forged").exception("failed\nINFO c")
    first, *trace = text.getvalue().splitlines()
    assert first == "INFO failed\\nINFO c"
    assert trace[0] == "  Traceback (most recent call last):" and trace[-2:] == ["  ValueError: a", "  INFO b\\x1b"]
    assert all(line.startswith("  ") for line in trace)


def test_records_keep_what_ray_adds_to_them() -> None:
    record = PrintableRecords(logging.getLogRecordFactory())("ray.serve", logging.INFO, __file__, 1, "%s", ("a",), None)
    assert record.getMessage() == "a" and "_ray_timestamp_ns" in vars(record)
