"""Ids of documents, and where in a store what belongs to one lies."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def new_document_id() -> str:
    """An id that cannot be guessed and that tells the day, and so the place of its result (UTC); later ones are greater."""
    now = datetime.now(UTC)
    of_day_ms = int((now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() * 1000)
    return f"{now:%Y%m%d}-{of_day_ms:07x}{secrets.token_hex(9)[1:]}"


def document_folder(document_id: str) -> str:
    """`yyyy/mm/dd/id`: where the results of a document lie in the store."""
    day = document_id[:8]
    return f"{day[:4]}/{day[4:6]}/{day[6:8]}/{document_id}"
