"""Writes that wait in the spool while the store takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.spool import ResultSpool, SpoolFull, size_of
from serve_app.storage.store import Store, StoreUnavailable

PUT_S = 5.0
SLOWEST_BYTES_PER_S = 2**20
"""A store that takes longer for an object than PUT_S seconds, and a second for each of these bytes, hangs."""

Put = Callable[[str, bytes | BinaryIO, str], Awaitable[None]]
"""Writes a key's value of a content type: into the store, or into the spool."""


class SpooledWrites:
    """Writes objects that belong together, into the store or into the spool. Without a spool, into the store only.

    While the store is known to be away it is not tried, so that nobody waits for it.
    """

    def __init__(self, store: Store, monitor: StoreMonitor, spool: ResultSpool | None) -> None:
        self.spool = spool
        self._store = store
        self._monitor = monitor

    async def write(self, name: str, write: Callable[[Put], Awaitable[None]]) -> bool:
        """Call `write` with what puts an object; it is called again if the store fails in between.

        Return True once all objects are in the store, False once they are in the spool, under `name`. Raises StoreUnavailable if
        neither takes them, and what else `write` raises.
        """
        if self.spool is None:
            await write(self._store.put)
            return True
        if not self._monitor.degraded:
            try:
                await write(self._put_in_time)
            except StoreUnavailable as error:
                self._monitor.report(error)
            else:
                self._monitor.report(None)
                return True
        try:
            await self._put_into(self.spool, name, write)
        except (SpoolFull, OSError) as error:
            raise StoreUnavailable(f"{self._monitor.reason}; the spool does not take it either: {error}") from error
        return False

    async def _put_into(self, spool: ResultSpool, name: str, write: Callable[[Put], Awaitable[None]]) -> None:
        result = await asyncio.to_thread(spool.begin, name)
        try:
            await write(result.put)
            await asyncio.to_thread(result.commit)
        except BaseException:
            await asyncio.to_thread(result.abandon)
            raise

    async def _put_in_time(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        """Write into the store. Raises StoreUnavailable also if it hangs."""
        limit_s = PUT_S + size_of(data) / SLOWEST_BYTES_PER_S
        write = asyncio.ensure_future(self._store.put(key, data, content_type))
        try:
            done, _ = await asyncio.wait({write}, timeout=limit_s)
        except asyncio.CancelledError:
            write.cancel()
            await asyncio.wait({write})
            raise
        if not done:
            # One that goes on all the same writes what the spool will send.
            write.cancel()
            write.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise StoreUnavailable(f"no response within {limit_s:.0f} s")
        write.result()
