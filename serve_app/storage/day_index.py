"""Small indexes of what is to be looked at again on some day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from serve_app.storage.store import Store


class DayIndex:
    """Names below `{folder}/{yyyymmdd}/`, by the day (UTC) on which something is to be done with them.

    Methods raise StoreUnavailable.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._listed: str | None = None

    async def add(self, day: datetime, name: str) -> None:
        await self._store.put(f"{self._folder}/{day:%Y%m%d}/{name}", b"", "application/octet-stream")

    async def due(self, now: datetime) -> AsyncIterator[tuple[str, str]]:
        """Day and name of each whose day has come; what is not removed comes again.

        All days are listed the first time, and whenever a new day begins: the others may hold a great many names.
        """
        today = f"{now:%Y%m%d}"
        place = self._folder if self._listed != today else f"{self._folder}/{today}"
        for key in await self._store.keys_below(place):
            day, name = key.removeprefix(f"{self._folder}/").split("/")
            if day > today:
                break
            yield day, name
        self._listed = today

    async def remove(self, day: str, name: str) -> None:
        await self._store.delete(f"{self._folder}/{day}/{name}")
