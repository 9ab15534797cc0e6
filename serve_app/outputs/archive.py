"""Writes a ZIP with a document in every format, and its figures under the paths that link them."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

from serve_app.document.spool import PageSpool

# A fixed date, so that the same files give the same archive.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_zip(files: Mapping[str, BinaryIO], spool: PageSpool, to: BinaryIO) -> None:
    """Write `files`, by their names in the archive, and the figures in `spool`.

    Each file is read from its current position.
    """
    with zipfile.ZipFile(to, "w") as archive:
        for name, file in files.items():
            with archive.open(archive_entry(name), "w", force_zip64=True) as entry:
                shutil.copyfileobj(file, entry)
        for path in spool.figure_paths:
            archive.writestr(archive_entry(path, zipfile.ZIP_STORED), spool.figure(path) or b"")


def archive_entry(name: str, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    """Return the header of a file that has no date, so that equal files give equal archives."""
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = compression
    return entry
