"""Sends what waits in the spool, once the store takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from serve_app.scheduling.backoff import backoff
from serve_app.scheduling.few_at_once import FewAtOnce
from serve_app.storage.monitor import StoreMonitor
from serve_app.storage.spool import ResultSpool, name_of, objects_in
from serve_app.storage.store import Store, StoreUnavailable

LOOK_S = 5.0
"""Pause between two looks at the spool while nothing waits."""

OBJECTS_AT_ONCE = 4
"""Objects of a result that are being sent at once. Each is in memory."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

IsGone = Callable[[str], Awaitable[bool]]
"""Whether what a result belongs to has been deleted, by the result's name. May raise StoreUnavailable."""

log = logging.getLogger("ray.serve.store")


class SpoolSender:
    """Sends the results that this process has in the spool, the oldest first, and what dead processes have left there.

    Sending a result twice changes nothing, so one whose sending was interrupted is sent again as a whole.
    """

    def __init__(
        self,
        spool: ResultSpool,
        store: Store,
        monitor: StoreMonitor,
        is_gone: IsGone,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._spool = spool
        self._store = store
        self._monitor = monitor
        self._is_gone = is_gone
        self._pauses_s = first_pause_s, longest_pause_s
        self._refused: set[str] = set()

    async def run(self) -> None:
        pauses = backoff(*self._pauses_s)
        while True:
            try:
                await asyncio.to_thread(self._spool.look_around)
                sent = await self.send()
            except Exception:  # a bug or a broken disk must not end this loop: what waits would never be sent
                log.exception("cannot send what waits in the spool")
                sent = 0
            if sent:
                log.info("%d result(s) of the spool are in the store now", sent)
                pauses = backoff(*self._pauses_s)
            await asyncio.sleep(next(pauses) if self._spool.files() else min(LOOK_S, self._pauses_s[1]))

    async def send(self) -> int:
        """Send what waits, until the store takes nothing; return how many results were sent. Raises OSError."""
        sent = 0
        for path in await asyncio.to_thread(self._spool.files):
            try:
                await self._send(path)
            except StoreUnavailable as error:
                self._monitor.report(error)
                await self._monitor.check()
                if self._monitor.degraded:
                    break
                if path.name not in self._refused:
                    log.error("the store takes writes, but not the result %s of the spool: %s", path.name, error)
                    self._refused.add(path.name)
            except ValueError as error:
                log.error("the result %s of the spool is damaged, and set aside: %s", path.name, error)
                await asyncio.to_thread(self._spool.set_aside, path)
            except FileNotFoundError:  # it has just been dropped
                await asyncio.to_thread(self._spool.remove, path)
            else:
                self._refused.discard(path.name)
                self._monitor.report(None)
                sent += 1
        return sent

    async def _send(self, path: Path) -> None:
        objects = objects_in(path)
        keys = []
        async with FewAtOnce(OBJECTS_AT_ONCE) as puts:
            while (each := await asyncio.to_thread(next, objects, None)) is not None:
                keys.append(each.key)
                await puts.start(self._store.put(each.key, each.data, each.content_type))
        # Asked after it was stored: who deletes later finds it in the store. At another node, nothing drops it from this spool.
        is_gone = await self._is_gone(name_of(path))
        # Who has deleted it at this node has dropped it meanwhile.
        was_here = await asyncio.to_thread(self._spool.remove, path)
        if is_gone or not was_here:
            for key in keys:
                await self._store.delete(key)
