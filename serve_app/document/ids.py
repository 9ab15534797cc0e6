"""Document ids, and the folder of a document in the store."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta


def new_document_id() -> str:
    """Make an id that cannot be guessed. It begins with the day (UTC), like its folder; later ids are greater."""
    now = datetime.now(UTC)
    since_midnight = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    milliseconds = int(since_midnight.total_seconds() * 1000)
    return f"{now:%Y%m%d}-{milliseconds:07x}{secrets.token_hex(9)[1:]}"


def created_at(document_id: str) -> datetime:
    """Return when the id was made, in UTC."""
    day, milliseconds = datetime.strptime(document_id[:8], "%Y%m%d"), int(document_id[9:16], 16)
    return day.replace(tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def document_folder(document_id: str) -> str:
    """Return `yyyy/mm/dd/id`, the folder of a document's results in the store."""
    day = document_id[:8]
    return f"{day[:4]}/{day[4:6]}/{day[6:8]}/{document_id}"
