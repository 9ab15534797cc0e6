"""What becomes of a page, or of a whole job, after a try: the table."""

from __future__ import annotations

import errno

import pytest

from serve_app.document import ErrorInfo
from serve_app.errors import (
    CorruptDocument,
    DocumentTimeout,
    EngineFailed,
    EngineLoading,
    InvalidField,
    PageTimeout,
    QueueFull,
    RecognitionFailed,
    RequestTimeout,
    ServiceError,
    ServiceUnavailable,
    TooManyPages,
    VlmServerAway,
)
from serve_app.jobs.verdict import PAGE_TRIES, Verdict, verdict
from serve_app.storage import StoreUnavailable

DONE, RETRY, WAIT, FAIL = Verdict.DONE, Verdict.RETRY, Verdict.WAIT, Verdict.FAIL

# What a try has raised, or a page's error -> the verdict on the first, the second and the third try.
TABLE: list[tuple[Exception | None, tuple[Verdict, Verdict, Verdict]]] = [
    (None, (DONE, DONE, DONE)),
    (RecognitionFailed(), (RETRY, RETRY, FAIL)),
    (PageTimeout(), (RETRY, RETRY, FAIL)),
    (EngineLoading(), (WAIT, WAIT, WAIT)),
    (EngineFailed(), (WAIT, WAIT, WAIT)),
    (VlmServerAway(), (WAIT, WAIT, WAIT)),
    (QueueFull(), (WAIT, WAIT, WAIT)),
    (ServiceUnavailable(), (WAIT, WAIT, WAIT)),
    (StoreUnavailable("away"), (WAIT, WAIT, WAIT)),
    (OSError(errno.ENOSPC, "no space"), (WAIT, WAIT, WAIT)),
    (OSError(errno.EDQUOT, "over quota"), (WAIT, WAIT, WAIT)),
    (OSError(errno.EIO, "a broken disk"), (FAIL, FAIL, FAIL)),
    (CorruptDocument(), (FAIL, FAIL, FAIL)),
    (InvalidField("pages"), (FAIL, FAIL, FAIL)),
    (TooManyPages("9"), (FAIL, FAIL, FAIL)),
    (DocumentTimeout(), (FAIL, FAIL, FAIL)),
    (RequestTimeout(), (FAIL, FAIL, FAIL)),
    (ServiceError(), (FAIL, FAIL, FAIL)),
    (TypeError("a bug"), (FAIL, FAIL, FAIL)),
]


@pytest.mark.parametrize(("error", "verdicts"), TABLE, ids=lambda each: str(each))
def test_the_verdict_follows_from_the_error_and_the_number_of_tries(
    error: Exception | None, verdicts: tuple[Verdict, ...]
) -> None:
    assert tuple(verdict(error, tries) for tries in range(1, PAGE_TRIES + 1)) == verdicts
    if isinstance(error, ServiceError):
        info = ErrorInfo(code=error.code, message=error.message)
        assert tuple(verdict(info, tries) for tries in range(1, PAGE_TRIES + 1)) == verdicts, "a page's error alike"
    assert verdict(error) is verdicts[-1], "where tries are not counted, this is the last one"
