"""What comes after a write that was cancelled comes after the write."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from serve_app.settings import FolderStoreSettings
from serve_app.storage.folder import FolderStore


async def test_a_cancelled_caller_waits_for_a_write_that_has_begun(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FolderStore):
        def _put(self, key: str, data: Any, content_type: str) -> None:
            begun.set()
            assert go_on.wait(5)
            super()._put(key, data, content_type)

    store = Slow(FolderStoreSettings(path=str(tmp_path)))
    writing = asyncio.create_task(store.put("a/page", b"text", "text/plain"))
    assert await asyncio.to_thread(begun.wait, 5)
    writing.cancel()
    await asyncio.wait({writing}, timeout=0.1)
    assert not writing.done(), "it has begun, and is not left behind"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await store.delete_below("a")
    assert await store.keys_below("a") == [], "and does not come back after a deletion"
