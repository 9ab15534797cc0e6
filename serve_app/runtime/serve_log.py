"""Log lines of a replica: Serve's own that say nothing to operators are left out, and nobody can forge one."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any


def set_up_log() -> None:
    """Set up the log of this process. Every replica calls this first."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, PrintableRecords):
        logging.setLogRecordFactory(PrintableRecords(make))
    logging.getLogger("ray.serve").addFilter(_is_for_operators)


class PrintableRecords:
    """Makes records whose text cannot look like another one. Paths, hosts and errors may have text that a client chose."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        """`make` is the former factory: Ray's, which adds the time in nanoseconds."""
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*arguments, **named)
        record.__class__ = _PrintableRecord
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            record.exc_text = "\n".join(f"  {printable(line)}" for line in trace.splitlines())
        return record


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


def printable(text: str) -> str:
    r"""Return the text with everything that cannot be printed escaped, such as `\n`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _is_for_operators(record: logging.LogRecord) -> bool:
    """Whether a log line is of use.

    Serve logs each call to a replica; of requests, RequestEnd says more. When a replica makes its first calls, Serve logs the
    address of an internal object, and how it spreads sessions.
    """
    is_about_a_call = getattr(record, "serve_access_log", False)
    is_about_sessions = record.module == "consistent_hash_router" and record.levelno <= logging.INFO
    return not is_about_a_call and not is_about_sessions and "SharedRouterLongPollClient" not in record.getMessage()
