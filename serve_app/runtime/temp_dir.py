"""The folder for temporary files: uploads, finished pages, unfinished outputs."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from serve_app.errors import NO_ROOM_RETRY_AFTER_S, ServiceError, ServiceUnavailable


def use_temp_dir(folder: Path) -> None:
    """Put temporary files of this process and its children into `folder`. If it is not writable, /health reports it."""
    if writable(folder):
        tempfile.tempdir = str(folder)


def writable(folder: Path) -> bool:
    """Whether files can be created in the folder. A missing folder is created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def has_room(folder: Path, size: float) -> bool:
    """Whether the folder's disk has `size` bytes free."""
    try:
        return shutil.disk_usage(folder).free >= size
    except OSError:
        return False


def is_no_room(error: BaseException | None) -> bool:
    """Whether the disk was full, or a quota used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room() -> ServiceUnavailable:
    """Make the error for a request that failed because the disk is full."""
    return ServiceUnavailable(
        "The service has no disk space left for this; try again later.", retry_after_s=NO_ROOM_RETRY_AFTER_S
    )


def log_failure(log: logging.Logger, error: Exception, summary: str) -> ServiceError:
    """Log an unexpected error under `summary`, and return the error for the client.

    A full disk is one line in the log; any other error is logged with its traceback.
    """
    if is_no_room(error):
        log.error("%s: no disk space left in %s", summary, tempfile.gettempdir())
        return no_room()
    log.error("%s", summary, exc_info=error)
    return ServiceError()
