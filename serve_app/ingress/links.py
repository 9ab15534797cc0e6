"""URLs of stored files, for whoever has no key."""

from __future__ import annotations

from urllib.parse import urljoin

from starlette.requests import Request

from serve_app.settings import Settings
from serve_app.storage import Store


class Links:
    """Makes them: of the store where that can be reached itself, else of this service."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._seconds = settings.link_s
        self._public_url = settings.public_url

    def of(self, key: str, request: Request) -> str:
        """The absolute URL of a key. It may block for a moment. Raises StoreUnavailable.

        `request` is what it is an answer to: its own address is the service's, where the settings have none.
        """
        base = self._public_url or str(request.base_url)
        return urljoin(base.rstrip("/") + "/", self._store.link(key, self._seconds))
