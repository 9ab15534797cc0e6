"""Document ids, and the folder of a document in the store."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def new_document_id() -> str:
    """Make an id that cannot be guessed. It begins with the day (UTC), like its folder; later ids are greater."""
    now = datetime.now(UTC)
    since_midnight = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    milliseconds = int(since_midnight.total_seconds() * 1000)
    return f"{now:%Y%m%d}-{milliseconds:07x}{secrets.token_hex(9)[1:]}"


def document_folder(document_id: str) -> str:
    """Return `yyyy/mm/dd/id`, the folder of a document's results in the store."""
    day = document_id[:8]
    return f"{day[:4]}/{day[4:6]}/{day[6:8]}/{document_id}"
