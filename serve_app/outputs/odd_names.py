"""Names and operators of a PDF that need not be UTF-8, as the format allows; pikepdf gives no `str` of such ones."""

from __future__ import annotations

from typing import Any, cast

import pikepdf
from pikepdf import Name


def name_of(key: str) -> Name:
    """Return the name behind a key of a dictionary. The bytes of one that is not UTF-8 are surrogates in the key."""
    written = "".join(f"#{byte:02x}" for byte in key.encode(errors="surrogateescape")[1:])
    return cast(Name, pikepdf.Object.parse(f"/{written}".encode()))


def operator_of(instruction: Any) -> str:
    """Return the operator of an instruction, as Latin-1."""
    return bytes(instruction.operator).decode("latin-1")
