"""Contents of large files as mapped memory: the kernel reads pages on access and may drop them again."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, BinaryIO, cast

FileContent = bytes | mmap.mmap
"""The content of a file, in memory or mapped. Slices are bytes; other methods differ."""

MAPPED_BYTES = 2**20
"""Contents of at least this size go to a file instead of memory."""


def map_file(file: IO[bytes]) -> mmap.mmap:
    """Map a whole file, which must not be empty. The mapping outlives the open file and never changes it."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # COPY, as ctypes takes no read-only memory


def unnamed_file(content: FileContent | memoryview) -> BinaryIO:
    """Make a temporary file with this content, positioned at its start. It vanishes when the caller closes it."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller's
    try:
        file.write(content)
        file.seek(0)  # which also writes what was buffered
    except BaseException:
        file.close()
        raise
    return file
