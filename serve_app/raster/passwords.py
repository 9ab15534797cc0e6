"""Spellings of a password in the encodings that writers of PDFs use."""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

Opened = TypeVar("Opened")

_ENCODINGS = ("latin-1", "pdfdoc", "cp1251")
"""The encodings of passwords before PDF 2.0: the standard's PDFDocEncoding, and what writers use in its place."""


def open_with(password: str | None, attempt: Callable[[bytes], Opened | None]) -> Opened | None:
    """Return what `attempt` returns for the first spelling of the password that opens the file, else None.

    `attempt` gets the password's bytes, and returns None if they are wrong. The last attempt is without a password: a
    file that only an owner's password protects may be read by everyone.
    """
    for spelling in dict.fromkeys(_spellings(password or "")):
        if (opened := attempt(spelling)) is not None:
            return opened
    return None


def _spellings(password: str) -> Iterator[bytes]:
    yield password.encode("utf-8", "surrogatepass")
    if not password.isascii():
        import pikepdf  # noqa: F401 - registers "pdfdoc"

        prepared = _saslprep(password)
        yield prepared.encode("utf-8", "surrogatepass")
        for encoding in _ENCODINGS:
            with suppress(UnicodeEncodeError):
                yield prepared.encode(encoding)
    yield b""


def _saslprep(password: str) -> str:
    """Normalize as PDF 2.0 does (RFC 4013): "é" is one character, however it was typed."""
    kept = (" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    return unicodedata.normalize("NFKC", "".join(kept))
