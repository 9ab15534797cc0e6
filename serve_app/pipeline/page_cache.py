"""PageCache: stores recognized pages, for a document that the same key sends again with the same options."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from serve_app.document import EngineInfo, PageResult, SourceFile
from serve_app.document.codec import decode_content, encode_content
from serve_app.document.options import RecognitionOptions
from serve_app.metrics.catalogue import CACHE_LOOKUPS
from serve_app.runtime.mapped_file import FileContent
from serve_app.scheduling.few_at_once import FewAtOnce
from serve_app.settings import Settings
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.store import CONCURRENT_DELETES, Store, StoreUnavailable

log = logging.getLogger("ray.serve.store")

FORMAT = 2
"""Version of the encoding and of the way pages are read; entries of other versions are not found."""

_OPTIONS = TypeAdapter(RecognitionOptions)


class PageCache:
    """Stores pages under `cache/{yyyymmdd}/{owner}/{document}/`, if the settings enable it.

    Entries are valid for `cache_days` days (UTC), including the day of recognition. If the store fails, pages are
    recognized as without a cache.
    """

    def __init__(
        self, store: Store, monitor: StoreMonitor, settings: Settings, version_of: Callable[[str], str | None]
    ) -> None:
        """`version_of` returns the version of the engine with this name, if it is known."""
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
        """Return a digest of the whole document; None if the cache is off. Blocks."""
        return hashlib.sha256(source).hexdigest() if self._days else None

    def pages_of(
        self, source: SourceFile, engine: str, options: RecognitionOptions, dpi: int | None
    ) -> CachedPages | None:
        """Return the cache for one document with these options; None if the cache is off or the engine's version unknown."""
        version = self._version_of(engine)
        if source.digest is None or version is None:
            return None
        inputs = [FORMAT, self._engines[engine], version, _OPTIONS.dump_python(options, mode="json"), dpi]
        name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
        return CachedPages(
            self, f"{_folder(source.owner, source.digest)}/{name}", EngineInfo(name=engine, version=version)
        )

    async def read(self, key: str) -> bytes | None:
        """Return the entry under this key from any day that is still valid; None if there is none."""
        if self._monitor.degraded:
            return None
        for day in self._valid_days():
            try:
                return await self._store.get(f"cache/{day}/{key}")
            except KeyError:
                continue
            except StoreUnavailable as error:
                log.warning("the page cache cannot be read: %s", error)
                break
        return None

    async def write(self, key: str, data: bytes) -> None:
        """Store an entry under this key, dated today."""
        if self._monitor.degraded:
            return
        try:
            await self._store.put(f"cache/{datetime.now(UTC):%Y%m%d}/{key}", data, "application/json")
        except StoreUnavailable as error:
            log.warning("a page cannot be cached: %s", error)

    async def forget(self, owner: str, digest: str) -> None:
        """Delete an owner's entries for a document. Raises StoreUnavailable."""
        for day in self._valid_days():
            await self._store.delete_below(f"cache/{day}/{_folder(owner, digest)}")

    async def sweep(self, now: datetime) -> None:
        """Delete expired entries, once a day. Raises StoreUnavailable."""
        today = f"{now:%Y%m%d}"
        if self._swept == today:
            return
        since = f"{now - timedelta(days=max(self._days - 1, 0)):%Y%m%d}"
        async with FewAtOnce(CONCURRENT_DELETES) as deletions:
            for key in await self._store.keys_below("cache"):
                if not self._days or key.split("/")[1] < since:
                    await deletions.start(self._store.delete(key))
        self._swept = today

    def _valid_days(self) -> list[str]:
        now = datetime.now(UTC)
        return [f"{now - timedelta(days=ago):%Y%m%d}" for ago in range(self._days)]


@dataclass(frozen=True)
class CachedPages:
    """Cached pages of one document, read by `engine` with the same options."""

    cache: PageCache
    prefix: str
    engine: EngineInfo

    async def get(self, number: int) -> PageResult | None:
        """Return a page with the milliseconds that finding it took; None if it is not cached."""
        started = time.perf_counter()
        data = await self.cache.read(self._key(number))
        CACHE_LOOKUPS.inc(outcome="miss" if data is None else "hit")
        if data is None:
            return None
        try:
            content = decode_content(data).content
            return PageResult(content, self.engine, timings_ms={"cache": (time.perf_counter() - started) * 1000})
        except ValueError as error:
            log.warning("a cached page is damaged: %s", type(error).__name__)
            return None

    async def put(self, number: int, result: PageResult) -> None:
        """Store a page, unless it failed, is degraded, or was read by another engine: a retry may be better."""
        if result.engine == self.engine and not result.page.degraded and result.page.error is None:
            await self.cache.write(self._key(number), encode_content(result.content, inline_figures=True))

    def _key(self, number: int) -> str:
        return f"{self.prefix}-{number:06d}.json"


def _folder(owner: str, digest: str) -> str:
    """Return the folder of a document. The owner is hashed, as names may contain characters that keys may not."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}/{digest}"
