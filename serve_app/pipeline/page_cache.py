"""Pages that were read already: the same document, asked for the same way by the same key, is not read again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from serve_app.document import EngineInfo, PageResult, SourceFile
from serve_app.document.codec import decode_content, encode_content
from serve_app.document.options import RecognitionOptions
from serve_app.runtime.mapped_file import FileContent
from serve_app.settings import Settings
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.store")

FORM = 1
"""Of what is kept of a page: other forms are not looked at."""

_OPTIONS = TypeAdapter(RecognitionOptions)


class PageCache:
    """Keeps pages below `cache/{yyyymmdd}/{owner}/{document}/`, where the settings want it.

    They are good for `cache_days` days (UTC), the one on which they were read included. A cache that cannot be read or
    written costs nothing but the time to read a page.
    """

    def __init__(
        self, store: Store, monitor: StoreMonitor, settings: Settings, version_of: Callable[[str], str | None]
    ) -> None:
        """`version_of` an engine by its name, where that is known."""
        self._store = store
        self._monitor = monitor
        self._days = settings.cache_days
        self._version_of = version_of
        limits, raster = settings.limits, settings.raster
        self._engines: dict[str, list[Any]] = {
            engine.name: [engine.model_dump(mode="json"), limits.image_megapixels, raster.default_dpi]
            for engine in settings.engines
        }
        self._swept: str | None = None

    def digest(self, source: FileContent) -> str | None:
        """What tells documents apart; None where pages are not kept. It reads all of the document."""
        return hashlib.sha256(source).hexdigest() if self._days else None

    def pages_of(
        self, source: SourceFile, engine: str, options: RecognitionOptions, dpi: int | None
    ) -> CachedPages | None:
        """The pages of a document that are read in this way; None where that is not known, or they are not kept."""
        version = self._version_of(engine)
        if source.digest is None or version is None:
            return None
        how = [FORM, self._engines[engine], version, _OPTIONS.dump_python(options, mode="json"), dpi]
        name = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:32]
        return CachedPages(
            self, f"{_folder(source.owner, source.digest)}/{name}", EngineInfo(name=engine, version=version)
        )

    async def read(self, key: str) -> bytes | None:
        """What was kept, on any of the days that count."""
        if self._monitor.degraded:
            return None
        for day in self._days_that_count():
            try:
                return await self._store.get(f"cache/{day}/{key}")
            except KeyError:
                continue
            except StoreUnavailable as error:
                log.warning("the cache of pages cannot be read: %s", error)
                break
        return None

    async def write(self, key: str, data: bytes) -> None:
        if self._monitor.degraded:
            return
        try:
            await self._store.put(f"cache/{datetime.now(UTC):%Y%m%d}/{key}", data, "application/json")
        except StoreUnavailable as error:
            log.warning("a page is not kept in the cache: %s", error)

    async def forget(self, owner: str, digest: str) -> None:
        """Delete an owner's pages of a document. Raises StoreUnavailable."""
        for day in self._days_that_count():
            await self._store.delete_below(f"cache/{day}/{_folder(owner, digest)}")

    async def sweep(self, now: datetime) -> None:
        """Delete what does not count any more, once a day. Raises StoreUnavailable."""
        today = f"{now:%Y%m%d}"
        if self._swept == today:
            return
        since = f"{now - timedelta(days=max(self._days - 1, 0)):%Y%m%d}"
        for key in await self._store.keys_below("cache"):
            if not self._days or key.split("/")[1] < since:
                await self._store.delete(key)
        self._swept = today

    def _days_that_count(self) -> list[str]:
        now = datetime.now(UTC)
        return [f"{now - timedelta(days=ago):%Y%m%d}" for ago in range(self._days)]


@dataclass(frozen=True)
class CachedPages:
    """Pages of one document that are read in one way; `engine` is what reads them."""

    cache: PageCache
    prefix: str
    engine: EngineInfo

    async def get(self, number: int) -> PageResult | None:
        data = await self.cache.read(self._key(number))
        if data is None:
            return None
        try:
            return PageResult(decode_content(data).content, self.engine)
        except ValueError as error:
            log.warning("a page in the cache is damaged: %s", type(error).__name__)
            return None

    async def put(self, number: int, result: PageResult) -> None:
        """Keep a page, if it is as good as this engine reads it."""
        if result.engine == self.engine and not result.page.degraded and result.page.error is None:
            await self.cache.write(self._key(number), encode_content(result.content, inline_figures=True))

    def _key(self, number: int) -> str:
        return f"{self.prefix}-{number:06d}.json"


def _folder(owner: str, digest: str) -> str:
    """Names of owners may hold what keys may not."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}/{digest}"
