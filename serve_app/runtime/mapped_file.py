"""The content of large files without holding it: the kernel reads it as it is looked at, and may drop it again."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, BinaryIO, cast

FileContent = bytes | mmap.mmap
"""What is in a file, in memory or mapped. Slices are bytes; other methods differ."""

MAPPED_BYTES = 2**20
"""From this size on it is worth a file."""


def mapped(file: IO[bytes]) -> mmap.mmap:
    """All of a file that is not empty; good for longer than the file is open, and never written to."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # COPY, as ctypes takes no read-only memory


def unnamed_file(content: FileContent | memoryview) -> BinaryIO:
    """A file with this content, at its beginning, for the caller to close; it is gone then, or with the process."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller's
    try:
        file.write(content)
        file.seek(0)  # which also writes what was buffered
    except BaseException:
        file.close()
        raise
    return file
