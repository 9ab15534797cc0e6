"""Whether the store takes writes, by what writes report and by a look every half minute."""

from __future__ import annotations

import asyncio
import logging

from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.store")

POLL_S = 30.0
# One small object with a fixed key: only a write proves that writing works again.
PROBE_KEY = ".write-check"
PROBE = b"\n" * 65_536  # a full disk takes empty files


class StoreMonitor:
    """`degraded` is the last known state, `reason` why it is so; only its changes are logged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.degraded = False
        self.reason: str | None = None

    def report(self, failure: BaseException | None) -> None:
        """A write's outcome."""
        if failure is not None and not self.degraded:
            log.error("the store cannot be written to: %s", failure)
        if failure is None and self.degraded:
            log.info("the store is back")
        self.degraded = failure is not None
        self.reason = None if failure is None else str(failure)

    async def look(self) -> None:
        """A cheap look while all is well; after a failure, a write."""
        try:
            if self.degraded:
                await self._store.put(PROBE_KEY, PROBE, "application/octet-stream")
            else:
                await self._store.check()
        except StoreUnavailable as error:
            self.report(error)
        except Exception as error:  # a bug or a library's surprise: /health must not freeze at "fine"
            log.exception("unexpected error while looking at the store")
            self.report(error)
        else:
            self.report(None)

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)
