"""Monitors whether the store takes writes. Writes report their outcome, and a check runs every half minute."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from serve_app.storage.store import Store, StoreUnavailable

log = logging.getLogger("ray.serve.store")

POLL_S = 30.0
# Only a write proves that writing works again.
PROBE_KEY = ".write-check"
PROBE = b"\n" * 65_536  # a full disk still takes empty files


class StoreMonitor:
    """Has the last known state of the store: whether it is `degraded`, and the `reason`. Logs only changes of the state."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.degraded = False
        self.reason: str | None = None
        self._seen_at = time.monotonic()
        self._suspected = asyncio.Event()

    @property
    def age_s(self) -> float:
        """Seconds since the state was last found."""
        return time.monotonic() - self._seen_at

    def report(self, failure: BaseException | None) -> None:
        """Record the outcome of a write; None means success."""
        if failure is not None and not self.degraded:
            log.error("the store takes no writes: %s", failure)
        if failure is None and self.degraded:
            log.info("the store takes writes again")
        self._seen_at = time.monotonic()
        self.degraded = failure is not None
        self.reason = None if failure is None else str(failure)

    def suspect(self) -> None:
        """Have the store checked now, as a read has failed. That may be the fault of one object."""
        self._suspected.set()

    async def check(self) -> None:
        """Check the store cheaply while all is well, and with a write after a failure."""
        try:
            if self.degraded:
                await self._store.put(PROBE_KEY, PROBE, "application/octet-stream")
            else:
                await self._store.check()
        except StoreUnavailable as error:
            self.report(error)
        except Exception as error:  # /health must not stay at "fine" because of a bug here
            log.exception("unexpected error while checking the store")
            self.report(error)
        else:
            self.report(None)

    async def run(self) -> None:
        while True:
            await self.check()
            # Not wait_for, which may swallow a cancellation (Python 3.11).
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._suspected.wait()
            self._suspected.clear()
