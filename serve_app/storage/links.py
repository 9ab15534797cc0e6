"""URLs of stored files that work without an API key."""

from __future__ import annotations

from urllib.parse import urljoin

from serve_app.settings import Settings
from serve_app.storage import Store


class Links:
    """Makes signed URLs: of the store itself if clients can reach it, else of this service."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._seconds = settings.link_s
        self._public_url = settings.public_url

    def base_url(self, requested_at: str) -> str:
        """Return the base URL of this service as clients see it: `public_url`, else that of the request."""
        return self._public_url or requested_at

    def url(self, key: str, base_url: str, *, seconds: int | None = None) -> str:
        """Return the absolute URL of a key, given the service's `base_url`. May block for a moment.

        The URL works for `seconds` (a week at most; by default `link_s` of the settings). Raises StoreUnavailable.
        """
        return urljoin(base_url.rstrip("/") + "/", self._store.link(key, seconds or self._seconds))
