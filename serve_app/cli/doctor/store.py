"""Checks of the store: it is written, listed, read and deleted as the service does, and its clock is compared."""

from __future__ import annotations

import asyncio
import os
import secrets as random
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli.doctor.finding import Code, Finding, ok, problem, warning
from serve_app.cli.doctor.folders import nearest_existing
from serve_app.runtime.plain_url import plain_url
from serve_app.settings import FolderStoreSettings, S3StoreSettings, Secrets, StoreSettings, resolve
from serve_app.storage import StoreUnavailable

if TYPE_CHECKING:
    from serve_app.storage.s3 import S3Store

CONTENT = b"written by `doctor`; may be deleted\n"
CONNECT_S, RESPOND_S = 2.0, 3.0
"""Short, and without a second attempt: somebody waits for the answer."""

WARN_CLOCK_S = 60.0
REFUSED_CLOCK_S = 900.0
"""S3 refuses requests from clocks that are off by more."""

WRITE, LIST, READ, DELETE, CLOCK = "store write", "store list", "store read", "store delete", "store clock"

# Codes of S3's errors, and what to do. Those without a body, which have the HTTP status instead, are among them.
_REFUSALS = {
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthorizationHeaderMalformed"): (
        "it refuses the keys: correct OCR_S3_ACCESS_KEY_ID and OCR_S3_SECRET_ACCESS_KEY, and `region`"
    ),
    ("AccessDenied", "403", "Forbidden"): (
        "the keys are not allowed to do this: give them s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket"
    ),
    ("NoSuchBucket", "404", "NotFound"): "the bucket does not exist: make it, or correct `bucket`",
    ("PermanentRedirect", "TemporaryRedirect", "301", "307", "IllegalLocationConstraintException"): (
        "the bucket is elsewhere: correct `region` or `endpoint_url`"
    ),
    ("RequestTimeTooSkewed", "RequestExpired"): "it refuses the time of this machine: set its clock (NTP)",
    ("QuotaExceeded", "InsufficientStorage", "507", "XMinioStorageFull", "EntityTooLarge", "413"): (
        "it has no room: raise the quota of the bucket, or delete results"
    ),
    (
        "NotImplemented",
        "501",
    ): "it does not know a part of the request: unset `server_side_encryption`, or set `checksums`",
}


def check_store(settings: StoreSettings, secrets: Secrets) -> Iterator[Finding]:
    if isinstance(settings, FolderStoreSettings):
        yield _check_folder(resolve(settings.path))
    else:
        yield from _check_bucket(settings, secrets)


def _check_folder(folder: Path) -> Finding:
    """Write, read and delete a file. Makes no folder, and no mark that the folder is a store: its disk may not be mounted yet."""
    place = nearest_existing(folder)
    # The store takes such a name for an unfinished file, and would delete it.
    file = place / f".{random.token_hex(8)}.tmp"
    try:
        try:
            with file.open("xb") as stream:
                stream.write(CONTENT)
                stream.flush()
                os.fsync(stream.fileno())
            intact = file.read_bytes() == CONTENT
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        what = (
            f"{folder} does not exist, and cannot be made in {place}"
            if place != folder
            else f"{folder} takes no writes"
        )
        return problem(
            WRITE, Code.FOLDER_NOT_WRITABLE, f"{what} ({error.strerror}): correct its owner, its disk or `store`"
        )
    if not intact:
        return problem(WRITE, Code.STORE_REFUSES, f"{folder} returns other bytes than were written: look at its disk")
    if place != folder:
        return ok(WRITE, f"{folder} does not exist yet, and can be made")
    return ok(WRITE, f"{folder} takes writes, reads and deletions")


def _check_bucket(settings: S3StoreSettings, secrets: Secrets) -> Iterator[Finding]:
    from serve_app.storage.s3 import Patience, S3Store  # imports boto3

    endpoint = f" at {plain_url(settings.endpoint_url)}" if settings.endpoint_url else ""
    bucket = f"s3://{settings.bucket}{endpoint}"
    try:
        store = S3Store(settings, secrets, patience=Patience(CONNECT_S, RESPOND_S, attempts=1))
    except ValueError:
        yield problem(
            WRITE, Code.CONFIG_INVALID, f"boto3 refuses the settings of {bucket}: look at `endpoint_url` and `region`"
        )
        return
    is_away = False
    for finding in _check_objects(store, bucket):
        is_away |= finding.code is Code.STORE_AWAY
        yield finding
    if not is_away:
        yield _check_clock(store)


def _check_objects(store: S3Store, bucket: str) -> Iterator[Finding]:
    """Yield a finding for each operation until one fails. An object that was written is deleted anyway."""
    key = f".doctor-{random.token_hex(8)}"
    operations = (
        (WRITE, "takes writes", lambda: store.put(key, CONTENT, "application/octet-stream")),
        (LIST, "can be listed", lambda: store.keys_below("jobs/leases")),  # few objects, whatever the store holds
        (READ, "returns what was written", lambda: store.get(key)),
    )
    for check, done, operation in operations:
        finding = _attempt(check, bucket, done, operation)
        yield finding
        if finding.code is not None:
            if check == WRITE:
                return
            break
    yield _attempt(DELETE, bucket, "takes deletions", lambda: store.delete(key))


def _attempt(check: str, bucket: str, done: str, operation: Callable[[], Coroutine[Any, Any, Any]]) -> Finding:
    try:
        result = asyncio.run(operation())
    except KeyError:
        result = None
    except StoreUnavailable as error:
        code, reason = _reason(error.__cause__)
        return problem(check, code, f"{bucket}: {reason}")
    if check == READ and result != CONTENT:
        return problem(
            check, Code.STORE_REFUSES, f"{bucket} does not return what was just written: it cannot be a store"
        )
    return ok(check, f"{bucket} {done}")


def _reason(error: BaseException | None) -> tuple[Code, str]:
    """Say what a failure means. The texts of botocore have addresses, which may have secrets in them."""
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            code = error.response["Error"]["Code"]
            for codes, reason in _REFUSALS.items():
                if code in codes:
                    return Code.STORE_REFUSES, reason
            return Code.STORE_REFUSES, f"it responds with the error {code[:60]!r}"
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return Code.STORE_REFUSES, "there are no keys: set OCR_S3_ACCESS_KEY_ID and OCR_S3_SECRET_ACCESS_KEY"
        case exceptions.ReadTimeoutError():
            return Code.STORE_AWAY, f"it does not respond within {RESPOND_S:g} s: look at the server"
        case exceptions.ConnectTimeoutError():
            return Code.STORE_AWAY, f"it cannot be connected to within {CONNECT_S:g} s: look at the firewall"
        case exceptions.ProxyConnectionError():
            return Code.STORE_AWAY, "the proxy of the environment (HTTPS_PROXY) cannot be connected to"
        case exceptions.SSLError():
            return Code.STORE_AWAY, "its certificate is not accepted: install its authority, and set AWS_CA_BUNDLE"
        case exceptions.EndpointConnectionError() | exceptions.ConnectionClosedError():
            return Code.STORE_AWAY, "it cannot be connected to: look whether the server runs, and at `endpoint_url`"
        case _:
            return Code.STORE_AWAY, f"it cannot be used ({type(error).__name__}): look at `store` of the config"


def _check_clock(store: S3Store) -> Finding:
    try:
        clock = store.clock()
    except StoreUnavailable as error:
        return warning(CLOCK, Code.CLOCK_UNKNOWN, f"the store's time is not known: {_reason(error.__cause__)[1]}")
    return compare_clocks(clock, datetime.now(UTC))


def compare_clocks(store: datetime | None, here: datetime) -> Finding:
    """Compare the store's time, known to a second, with this machine's."""
    if store is None:
        return warning(CLOCK, Code.CLOCK_UNKNOWN, "the store does not tell its time: compare it yourself")
    off_s = (here - store).total_seconds()
    if abs(off_s) <= WARN_CLOCK_S:
        return ok(CLOCK, "the store and this machine have the same time")
    told = (
        f"this machine is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the store: set both clocks (NTP)"
    )
    if abs(off_s) < REFUSED_CLOCK_S:
        return warning(CLOCK, Code.CLOCK_OFF, f"{told} before it is 15 minutes, which S3 refuses")
    return problem(CLOCK, Code.CLOCK_OFF, f"{told}. S3 refuses 15 minutes and more")
