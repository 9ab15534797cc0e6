"""The store: S3 or a folder, one interface. Keeps bytes by key; knows no documents."""

from __future__ import annotations

from serve_app.settings import FolderStoreSettings, Secrets, StoreSettings
from serve_app.storage.folder import FolderStore
from serve_app.storage.store import Store, StoreUnavailable

__all__ = ["FolderStore", "Store", "StoreUnavailable", "open_store"]


def open_store(settings: StoreSettings, secrets: Secrets) -> Store:
    """The store that `settings` name. Nothing is reached or written yet: see `Store.check`.

    Raises ValueError for settings that can never work, as an endpoint without a scheme.
    """
    if isinstance(settings, FolderStoreSettings):
        return FolderStore(settings)
    from serve_app.storage.s3 import S3Store  # boto3 costs time and memory that a folder need not pay

    return S3Store(settings, secrets)
