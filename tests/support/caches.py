"""A cache of pages that keeps none, for parts that take one."""

from __future__ import annotations

from serve_app.pipeline.page_cache import PageCache
from serve_app.settings import FolderStoreSettings, Settings
from serve_app.storage.folder import FolderStore
from serve_app.storage.monitor import StoreMonitor


def no_cache() -> PageCache:
    store = FolderStore(FolderStoreSettings(path="nothing-is-kept"))
    return PageCache(store, StoreMonitor(store), Settings(), lambda engine: None)
