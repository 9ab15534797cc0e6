"""Leases: which Jobs replica has which job, agreed on through the store.

A lease is an empty object `jobs/leases/{job}.{holder}`. It holds as long as its holder is seen to be alive (`Holders`), so
one beat of a replica renews the leases of all its jobs. The store need not write under a condition, and no two
clocks are compared. That is why two replicas may have the same job for a while:

- two take it at the same time: at the next beat both see both leases, and the one whose id is greater gives its own up;
- one was suspended or cut off from the store, and another has taken its jobs over: the new holder has deleted its
  lease, and it gives the job up at its next beat.

Both do the same work then and leave the same result: see `JobStore`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from serve_app.jobs.holders import BEAT_S, Holders, JobCounts
from serve_app.storage import Store

FOLDER = "jobs/leases"
OCTETS = "application/octet-stream"

UNLEASED_BEATS = 2
"""Beats after which a job without any lease is taken: one that has just been stored gets its lease first."""

OVERDUE_BEATS = 5
"""Beats after which a replica takes a job that another one should have taken."""


class Leases:
    """The leases of this replica. Methods raise StoreUnavailable.

    If it is `alone`, it holds every job, and nothing is written: a replica that follows it waits for nobody.
    """

    def __init__(
        self,
        store: Store,
        holders: Holders,
        *,
        alone: bool,
        beat_s: float = BEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holders = holders
        self.is_alone = alone
        self._store = store
        self._beat_s = beat_s
        self._clock = clock
        self.lost: set[str] = set()
        """Jobs of this replica that another one has now. Who stops the work on one discards it here."""
        self._held: set[str] = set()
        self._known: dict[str, set[str]] = {}
        self._free_since: dict[str, float] = {}

    @property
    def held(self) -> frozenset[str]:
        """The jobs whose leases this replica has written. Empty if it is alone."""
        return frozenset(self._held)

    @property
    def has_orphans(self) -> bool:
        """Whether there is a job that nobody alive has, as far as this replica knows."""
        alive = set(self.holders.alive)
        long_ago = self._clock() - UNLEASED_BEATS * self._beat_s
        return any(
            (leased_to and not leased_to & alive) or self._is_given(job_id) for job_id, leased_to in self._known.items()
        ) or any(since <= long_ago and not self._known.get(job_id) for job_id, since in self._free_since.items())

    @property
    def is_first(self) -> bool:
        """Whether this replica does the work that one of them must do. For a short time two may, or none."""
        return self.is_alone or self.holders.alive[0] == self.holders.me

    def holds(self, job_id: str) -> bool:
        return self.is_alone or job_id in self._held

    def with_free_slots(self) -> list[str]:
        """Return other replicas that could start jobs at once, each as many times as it could start one."""
        others = [holder for holder in self.holders.alive if holder != self.holders.me]
        return [holder for holder in others for _ in range(self.holders.free_slots(holder))]

    def to_take(self, job_ids: Iterable[str]) -> list[str]:
        """Return those jobs that this replica has, or should take now. `job_ids` have work to do."""
        return [job_id for job_id in job_ids if self.holds(job_id) or self._should_take(job_id)]

    def _should_take(self, job_id: str) -> bool:
        if self._is_given(job_id):
            return True
        leased_to = self._known.get(job_id, set())
        if leased_to & set(self.holders.alive):
            self._free_since.pop(job_id, None)
            return False
        free_s = self._clock() - self._free_since.setdefault(job_id, self._clock())
        if self.holders.chosen_for(job_id) == self.holders.me:
            return bool(leased_to) or free_s >= UNLEASED_BEATS * self._beat_s
        return free_s >= OVERDUE_BEATS * self._beat_s

    def _is_given(self, job_id: str) -> bool:
        """Whether another replica has written a lease for this one: see `give`."""
        return job_id not in self._held and self.holders.me in self._known.get(job_id, ())

    async def take(self, job_id: str) -> None:
        """Take the lease of a job, and end those of dead replicas. Does nothing if this replica has it already."""
        if self.holds(job_id):
            return
        if not self.holders.has_begun:
            await self.holders.beat(JobCounts())
        await self._store.put(_key(job_id, self.holders.me), b"", OCTETS)
        self._held.add(job_id)
        self._free_since.pop(job_id, None)
        await self._end(job_id, self._known.get(job_id, set()) - set(self.holders.alive))

    async def give(self, job_id: str, holder: str) -> None:
        """Give the lease of a job to another replica, which notices it at its next beat."""
        self.holders.note_given(holder)
        await self._store.put(_key(job_id, holder), b"", OCTETS)
        self._known.setdefault(job_id, set()).add(holder)
        await self.release(job_id)

    async def release(self, job_id: str) -> None:
        """End this replica's lease of a job."""
        if job_id in self._held:
            await self._store.delete(_key(job_id, self.holders.me))
            self._forget(job_id)

    async def end_others(self, job_id: str) -> None:
        """End the leases of other replicas on a job that has ended. One that comes back stops at its next beat."""
        if self.is_alone:
            return
        # Listed, as this replica may not have seen one that has just started.
        leased_to = {holder for job, holder in await self._list() if job == job_id}
        await self._end(job_id, leased_to - {self.holders.me})

    async def forget_all_but(self, job_ids: Iterable[str]) -> None:
        """End what dead replicas have left. `job_ids` are all jobs with work to do."""
        with_work, alive = set(job_ids), set(self.holders.alive)
        self._free_since = {job_id: at for job_id, at in self._free_since.items() if job_id in with_work}
        for job_id in self._known.keys() - with_work:
            if not self._known[job_id] & alive:
                await self._end(job_id, self._known.pop(job_id))

    async def renew(self, counts: JobCounts) -> None:
        """Beat, and add the jobs that another replica has now to `lost`; this one's leases of them are ended."""
        held = self.held
        # Leases first: whoever has written one has beaten before, so that the list of holders that follows has it.
        known: dict[str, set[str]] = defaultdict(set)
        for job_id, holder in await self._list():
            known[job_id].add(holder)
        await self.holders.beat(counts)
        self._known = dict(known)
        alive = set(self.holders.alive)
        for job_id in held & self._held:
            await self._renew(job_id, known[job_id], alive)

    async def _renew(self, job_id: str, leased_to: set[str], alive: set[str]) -> None:
        """Keep a job that is leased to these, or lose it to one of them. Ends the leases of dead ones."""
        me = self.holders.me
        await self._end(job_id, leased_to - alive)
        if me not in leased_to and not await self._is_stored(job_id):
            self.lost.add(job_id)
            self._forget(job_id)
        elif min(leased_to & alive | {me}) != me:
            self.lost.add(job_id)
            await self.release(job_id)

    async def _end(self, job_id: str, holders: Iterable[str]) -> None:
        """End the leases that these have, or had, of a job."""
        for holder in holders:
            await self._store.delete(_key(job_id, holder))

    def _forget(self, job_id: str) -> None:
        self._held.discard(job_id)
        self._known.get(job_id, set()).discard(self.holders.me)

    async def _is_stored(self, job_id: str) -> bool:
        """Whether the lease exists. A list may lag behind; reading a key does not."""
        try:
            await self._store.get(_key(job_id, self.holders.me))
        except KeyError:
            return False
        return True

    async def _list(self) -> list[tuple[str, str]]:
        """Return job and holder of each lease."""
        names = [key.rpartition("/")[2] for key in await self._store.keys_below(FOLDER)]
        return [(job_id, holder) for job_id, _, holder in (name.partition(".") for name in names)]


def _key(job_id: str, holder: str) -> str:
    return f"{FOLDER}/{job_id}.{holder}"
