"""The store: S3 or a folder behind one interface. Holds bytes by key; knows no documents.

May use scheduling, runtime, settings and errors.
"""

from __future__ import annotations

from serve_app.settings import FolderStoreSettings, Secrets, StoreSettings
from serve_app.storage.folder import FolderStore
from serve_app.storage.store import Store, StoreUnavailable

__all__ = ["FolderStore", "Store", "StoreUnavailable", "open_store"]


def open_store(settings: StoreSettings, secrets: Secrets) -> Store:
    """Open the store of the settings, without contacting it yet: see `Store.check`.

    Raises ValueError for settings that can never work, such as an endpoint without a scheme.
    """
    if isinstance(settings, FolderStoreSettings):
        return FolderStore(settings)
    from serve_app.storage.s3 import (
        S3Store,
    )  # imports boto3, which takes time and memory that a folder store does not need

    return S3Store(settings, secrets)
