"""Locks by name. A lock exists as long as it is locked or awaited."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class Locks:
    """`async with locks[name]:` excludes all others that use the same name."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __getitem__(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())
