"""The folder for what does not belong in memory: uploads, pages that are done, outputs that are being made."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from serve_app.errors import NO_ROOM_RETRY_AFTER_S, ServiceError, ServiceUnavailable


def use_temp_dir(folder: Path) -> None:
    """Temporary files of this process, and of those it starts, go there. Where it cannot be written, /health tells."""
    if writable(folder):
        tempfile.tempdir = str(folder)


def writable(folder: Path) -> bool:
    """Whether files may be made in the folder; it is created if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def has_room(folder: Path, size: float) -> bool:
    """Whether a file of `size` bytes may go there."""
    try:
        return shutil.disk_usage(folder).free >= size
    except OSError:
        return False


def is_no_room(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room() -> ServiceUnavailable:
    return ServiceUnavailable(
        "The service has no disk space left for this; try again later.", retry_after_s=NO_ROOM_RETRY_AFTER_S
    )


def logged_failure(log: logging.Logger, error: Exception, what: str) -> ServiceError:
    """What a client is told of an unexpected error; the log has the rest, an operator's part of it in one line."""
    if is_no_room(error):
        log.error("%s: no disk space left in %s", what, tempfile.gettempdir())
        return no_room()
    log.error("%s", what, exc_info=error)
    return ServiceError()
