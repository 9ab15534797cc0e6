"""Which Jobs replicas are alive, as each sees by itself: every replica raises a count in the store, and the others watch it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

from serve_app.storage import Store, StoreUnavailable

BEAT_S = 2.0
"""Pause between two beats, in seconds."""

DEAD_AFTER_BEATS = 3
"""Looks in a row that must have found no newer beat, and the pauses between beats that must have passed, until a replica
counts as dead. Both, as a replica that was suspended itself has not looked for a while."""

FORGET_AFTER_S = 60.0
"""Seconds after which the key of a dead replica is deleted."""

FOLDER = "jobs/holders"


@dataclass(frozen=True)
class JobCounts:
    """Numbers of jobs: running, waiting, those that could start at once, and those with unreadable records."""

    running: int = 0
    waiting: int = 0
    free: int = 0
    unreadable: int = 0

    def __add__(self, other: JobCounts) -> JobCounts:
        return JobCounts(
            self.running + other.running,
            self.waiting + other.waiting,
            self.free + other.free,
            self.unreadable + other.unreadable,
        )

    @classmethod
    def of_beat(cls, content: bytes) -> JobCounts:
        """Read them from a beat, which may be that of another version: leave out what this one does not know."""
        told = json.loads(content)["load"]
        return cls(**{field.name: told.get(field.name, 0) for field in fields(cls)})


@dataclass
class _Seen:
    """Another replica, as this one has seen it: its last beat, when it came, and how many looks have found no newer one."""

    content: bytes
    counts: JobCounts
    changed_at: float
    looks: int = 0


class Holders:
    """This replica, `me`, and the others that share the store.

    Each replica writes a count to `jobs/holders/{holder}` every BEAT_S seconds. A replica whose count has not changed for
    DEAD_AFTER_BEATS pauses, on the clock of the one that looks, counts as dead. So no two clocks are compared. Methods raise
    StoreUnavailable.
    """

    def __init__(self, store: Store, *, beat_s: float = BEAT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.me = secrets.token_hex(8)
        self._store = store
        self._dead_after_s = DEAD_AFTER_BEATS * beat_s
        self._clock = clock
        self._beats = 0
        self._others: dict[str, _Seen] = {}
        self._looked_at = self._changed_at = clock()

    @property
    def has_begun(self) -> bool:
        """Whether the others can see this replica."""
        return self._beats > 0

    @property
    def alive(self) -> list[str]:
        """The replicas that are alive, this one included, in an order that all agree on."""
        return sorted([self.me, *(holder for holder, seen in self._others.items() if not self._is_dead(seen))])

    @property
    def unchanged_s(self) -> float:
        """Seconds since this replica started, or last saw another one come or go."""
        return self._clock() - self._changed_at

    @property
    def counts_of_others(self) -> JobCounts:
        """The jobs of the other replicas that are alive, at their last beats."""
        return sum((seen.counts for seen in self._others.values() if not self._is_dead(seen)), JobCounts())

    def free_slots(self, holder: str) -> int:
        """Return how many more jobs another replica could start at its last beat, less those given to it since."""
        return self._others[holder].counts.free

    def note_given(self, holder: str) -> None:
        """Note that a job has been given to another replica."""
        if (seen := self._others.get(holder)) is not None:
            seen.counts = replace(seen.counts, free=max(0, seen.counts.free - 1))

    def chosen_for(self, job_id: str) -> str:
        """Return the replica that should take a job which nobody has. All that see the same replicas choose the same one."""
        return max(self.alive, key=lambda holder: hashlib.sha256(f"{job_id} {holder}".encode()).digest())

    async def beat(self, counts: JobCounts) -> None:
        """Show that this replica is alive and has these jobs, and look at the others."""
        before = self.alive
        try:
            self._beats += 1
            beat = json.dumps({"count": self._beats, "load": asdict(counts)}).encode()
            await self._store.put(f"{FOLDER}/{self.me}", beat, "application/json")
            await self._look()
        except StoreUnavailable:
            # Nobody can be seen to be alive while the store is away. That is not their death.
            for seen in self._others.values():
                seen.changed_at, seen.looks = self._clock(), 0
            raise
        if self.alive != before:
            self._changed_at = self._clock()

    async def leave(self) -> None:
        """Tell the others that this replica is gone, so that they need not wait to take over its jobs."""
        await self._store.delete(f"{FOLDER}/{self.me}")

    async def _look(self) -> None:
        listed = {key.rpartition("/")[2] for key in await self._store.keys_below(FOLDER)} - {self.me}
        self._others = {holder: seen for holder, seen in self._others.items() if holder in listed}
        contents = await asyncio.gather(*(self._read(holder) for holder in sorted(listed)))
        now = self._looked_at = self._clock()
        for holder, content in zip(sorted(listed), contents, strict=True):
            seen = self._others.get(holder)
            if content is None:  # it has just left
                self._others.pop(holder, None)
            elif seen is None or seen.content != content:
                self._others[holder] = _Seen(content, JobCounts.of_beat(content), now)
            else:
                seen.looks += 1
                if now - seen.changed_at > self._dead_after_s + FORGET_AFTER_S and self.alive[0] == self.me:
                    await self._store.delete(f"{FOLDER}/{holder}")

    def _is_dead(self, seen: _Seen) -> bool:
        return seen.looks >= DEAD_AFTER_BEATS and self._looked_at - seen.changed_at >= self._dead_after_s

    async def _read(self, holder: str) -> bytes | None:
        try:
            return await self._store.get(f"{FOLDER}/{holder}")
        except KeyError:
            return None
