"""Indexes of names by the day on which they are due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from serve_app.storage.store import Store


class DayIndex:
    """Names as empty objects `{folder}/{yyyymmdd}/{name}`, by day (UTC). Methods raise StoreUnavailable."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._listed: str | None = None

    async def add(self, day: datetime, name: str) -> None:
        await self._store.put(f"{self._folder}/{day:%Y%m%d}/{name}", b"", "application/octet-stream")

    async def due(self, now: datetime) -> AsyncIterator[tuple[str, str]]:
        """Yield day and name of each entry that is due. Each call yields an entry again until it is removed.

        The first call of a day lists all days, later ones only today: future days may hold a great many names.
        """
        today = f"{now:%Y%m%d}"
        folder = self._folder if self._listed != today else f"{self._folder}/{today}"
        for key in await self._store.keys_below(folder):
            day, name = key.removeprefix(f"{self._folder}/").split("/")
            if day > today:
                break
            yield day, name
        self._listed = today

    async def remove(self, day: str, name: str) -> None:
        await self._store.delete(f"{self._folder}/{day}/{name}")
