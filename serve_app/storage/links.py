"""URLs of stored files, for whoever has no key."""

from __future__ import annotations

from urllib.parse import urljoin

from serve_app.settings import Settings
from serve_app.storage import Store


class Links:
    """Makes them: of the store where that can be reached itself, else of this service."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._seconds = settings.link_s
        self._public_url = settings.public_url

    def address(self, asked_at: str) -> str:
        """The service's own, for whoever has asked at this one."""
        return self._public_url or asked_at

    def of(self, key: str, address: str, *, seconds: int | None = None) -> str:
        """The absolute URL of a key, where this is the service's address. It may block for a moment.

        `seconds`: how long it works, a week at most; unset: what the settings say. Raises StoreUnavailable.
        """
        return urljoin(address.rstrip("/") + "/", self._store.link(key, seconds or self._seconds))
