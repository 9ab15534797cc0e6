"""Downloads documents of jobs that were submitted as a URL."""

from __future__ import annotations

from serve_app.errors import UrlFetchFailed, UrlForbidden
from serve_app.fetching.url_fetcher import Fetcher, parse_url
from serve_app.runtime.mapped_file import FileContent
from serve_app.settings import Settings
from serve_app.storage import Store

S3 = "s3://"


def check_source(url: str, settings: Settings) -> None:
    """Check a document's URL. Raises InvalidUrl, SchemeNotAllowed, and UrlForbidden for an S3 prefix that is not allowed."""
    if not url.startswith(S3):
        parse_url(url)
    elif not url.startswith(settings.jobs.s3_sources or "no prefix"):
        raise UrlForbidden("This service may not read documents from there (jobs.s3_sources).")


class Sources:
    """Downloads from http, https and s3 URLs, within the limits of jobs."""

    def __init__(self, settings: Settings, store: Store, fetcher: Fetcher) -> None:
        self._settings = settings
        self._store = store
        self._fetcher = fetcher

    async def fetch(self, url: str) -> FileContent:
        """Download a document. Raises the errors of `check_source` and `Fetcher.fetch`, and StoreUnavailable."""
        check_source(url, self._settings)
        if not url.startswith(S3):
            return await self._fetcher.fetch(url)
        from serve_app.storage.s3 import S3Store  # imports boto3, which takes time and memory

        assert isinstance(self._store, S3Store), "the settings are checked for this"
        try:
            return await self._store.source(url, max_bytes=int(self._settings.jobs.body_mb * 1e6))
        except KeyError:
            raise UrlFetchFailed("There is no such object, or this service may not read it.") from None
