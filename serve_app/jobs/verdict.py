"""Decides what follows a try of a page or of a whole job."""

from __future__ import annotations

from enum import Enum, auto

from serve_app.document import ErrorInfo
from serve_app.errors import (
    ENGINE_UNAVAILABLE,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    ServiceError,
    ServiceUnavailable,
)
from serve_app.runtime.temp_dir import is_no_room
from serve_app.storage import StoreUnavailable

PAGE_TRIES = 3

_OUTAGES = {error.code for error in (*ENGINE_UNAVAILABLE, QueueFull, ServiceUnavailable)}
_RETRIED = {error.code for error in (RecognitionFailed, PageTimeout)}


class Verdict(Enum):
    DONE = auto()
    RETRY = auto()
    """Another try may succeed. There is a limit to these."""
    WAIT = auto()
    """An outage, for which the document is not to blame. Tries again until the job's time is over."""
    FAIL = auto()


def verdict(error: Exception | ErrorInfo | None, tries: int = PAGE_TRIES) -> Verdict:
    """Judge a try by its error. `tries` counts the tries so far, this one included; by default no more are allowed."""
    if error is None:
        return Verdict.DONE
    if isinstance(error, StoreUnavailable) or (isinstance(error, Exception) and is_no_room(error)):
        return Verdict.WAIT
    code = error.code if isinstance(error, ServiceError | ErrorInfo) else None
    if code in _OUTAGES:
        return Verdict.WAIT
    return Verdict.RETRY if code in _RETRIED and tries < PAGE_TRIES else Verdict.FAIL
