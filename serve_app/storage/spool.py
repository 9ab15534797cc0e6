"""The spool: results that wait on this node's disk until the store takes them.

    {folder}/{process}/lock                     locked as long as the process lives
    {folder}/{process}/{time in ns}.{name}.result

A result is one file: for each of its objects a line of JSON with `key`, `type` and `size`, and then its bytes. It gets its
name once it is whole and on the disk. The names sort by time. Every process of the node has a subfolder, and takes over those
of processes that have died: the kernel ends their locks.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from serve_app.metrics.catalogue import SPOOL_BYTES, SPOOL_LIMIT_BYTES, SPOOL_RESULTS
from serve_app.runtime.durable import sync_folder
from serve_app.settings import Settings, resolve
from serve_app.storage.store import Store

LOCK = "lock"
SUFFIX = ".result"
DAMAGED = ".damaged"
"""A file that cannot be read is set aside under this suffix."""

NEW_S = 60.0
"""Until a subfolder without a lock is this old, in seconds, its process may be about to lock it."""

log = logging.getLogger("ray.serve.store")


class SpoolFull(Exception):
    """The spool has no room for a result."""


@dataclass(frozen=True)
class Waiting:
    """How many results wait, and their bytes."""

    results: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class StoredObject:
    """An object of a result, as it goes to the store."""

    key: str
    content_type: str
    data: bytes


class ResultSpool:
    """The results that wait in `folder`, of which this process has some. Their files have at most `max_bytes` in all.

    Another process may have written up to the last `look_around`: the bound may be passed by what all write in that time.
    Methods block; they may be called from several threads.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._own: Path | None = None
        self._lock: int | None = None
        self._sizes: dict[str, int] = {}
        self._writing = 0
        self._others = Waiting()

    @property
    def waiting(self) -> Waiting:
        """The results that wait on this node. Those of other processes are as they were at the last `look_around`."""
        own = list(self._sizes.values())
        return Waiting(len(own) + self._others.results, sum(own) + self._others.bytes)

    def measure(self) -> None:
        """Set the metrics of what waits."""
        waiting = self.waiting
        SPOOL_RESULTS.set(waiting.results)
        SPOOL_BYTES.set(waiting.bytes)
        SPOOL_LIMIT_BYTES.set(self._max_bytes)

    def files(self) -> list[Path]:
        """Return the results that this process has, oldest first."""
        return [self._own_folder() / name for name in sorted(self._sizes)]

    def begin(self, name: str) -> SpooledResult:
        """Begin to write a result, which is found again by its name: the id of its document, or of its page. Raises OSError."""
        return SpooledResult(self, self._own_folder() / f"{time.time_ns():020d}.{name}{SUFFIX}")

    def find(self, name: str) -> dict[str, Path]:
        """Return the results of this node whose names begin like this, by their names. Raises OSError."""
        found: dict[str, Path] = {}
        for folder in self._subfolders():
            with suppress(FileNotFoundError):  # it has just been taken over, and is found there the next time
                for entry in _results_in(folder):
                    if (each := name_of(path := Path(entry))).startswith(name):
                        found[each] = path
        return found

    def drop(self, name: str) -> None:
        """Remove the results of this node whose names begin like this. One that is being sent is deleted in the store by its sender.

        Raises OSError.
        """
        for path in self.find(name).values():
            self.remove(path)

    def remove(self, path: Path) -> bool:
        """Remove a result. Return False if it was gone already. Raises OSError."""
        self._sizes.pop(path.name, None)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def set_aside(self, path: Path) -> None:
        """Keep a damaged file out of the way. Raises OSError."""
        path.rename(path.with_suffix(DAMAGED))
        self._sizes.pop(path.name, None)

    def look_around(self) -> None:
        """Take over what dead processes have left, and count what others have. Raises OSError."""
        results = size = 0
        for folder in self._subfolders():
            if folder == self._own or self._adopt(folder):
                continue
            for entry in _results_in(folder):
                with suppress(FileNotFoundError):  # it has just been sent
                    size += entry.stat().st_size
                    results += 1
        self._others = Waiting(results, size)

    def close(self) -> None:
        """Let other processes take over what waits."""
        with self._mutex:
            if self._lock is not None:
                os.close(self._lock)
            self._own = self._lock = None
            self._sizes = {}

    def _reserve(self, size: int) -> None:
        with self._mutex:
            if self.waiting.bytes + self._writing + size > self._max_bytes:
                raise SpoolFull(f"the spool {self._folder} has no room for {size} bytes")
            self._writing += size

    def _release(self, size: int) -> None:
        with self._mutex:
            self._writing -= size

    def _own_folder(self) -> Path:
        with self._mutex:
            while self._own is None:
                folder = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
                folder.mkdir(parents=True, mode=0o700)
                self._lock = _locked(folder / LOCK)
                if self._lock is None:  # another process has just taken it for one that is left behind
                    continue
                for level in (folder, folder.parent):
                    sync_folder(level)
                self._own = folder
            return self._own

    def _subfolders(self) -> list[Path]:
        try:
            return [Path(entry) for entry in os.scandir(self._folder) if entry.is_dir()]
        except FileNotFoundError:
            return []

    def _adopt(self, folder: Path) -> bool:
        """Whether the process of a subfolder is dead; its results are this one's then."""
        try:
            if not (folder / LOCK).exists() and time.time() - folder.stat().st_mtime < NEW_S:
                return False
            if (lock := _locked(folder / LOCK)) is None:
                return False
            try:
                self._take_over(folder)
            finally:
                os.close(lock)
        except FileNotFoundError:  # another process has just taken it over
            pass
        return True

    def _take_over(self, folder: Path) -> None:
        results = _results_in(folder)
        for entry in results:
            size = entry.stat().st_size
            os.rename(entry, self._own_folder() / entry.name)
            self._sizes[entry.name] = size
        if results:
            sync_folder(self._own_folder())
            log.warning("took over %d result(s) that another process has left in the spool", len(results))
        if not any(path.suffix == DAMAGED for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def open_spool(settings: Settings, store: Store) -> ResultSpool | None:
    """Return the spool for this store; None if the settings want none. Nothing is written yet.

    Services whose stores differ in their bucket, folder or prefix have folders of their own in `spool_dir`.
    """
    if not settings.spool_mb:
        return None
    name = hashlib.sha256(store.uri("results").encode()).hexdigest()[:12]
    return ResultSpool(resolve(settings.spool_dir) / name, int(settings.spool_mb * 1e6))


def name_of(path: Path) -> str:
    """Return the name under which a result was written."""
    _, _, name = path.name.removesuffix(SUFFIX).partition(".")
    return name


def objects_in(path: Path) -> Iterator[StoredObject]:
    """Yield the objects of a result. Raises ValueError if its file is damaged, and OSError."""
    with path.open("rb") as file:
        while line := file.readline():
            head = json.loads(line)
            data = file.read(head["size"])
            if len(data) < head["size"]:
                raise ValueError("the file is cut off")
            yield StoredObject(head["key"], head["type"], data)


class SpooledResult:
    """A result that is being written: `put` its objects, then `commit` or `abandon` it. Methods raise OSError."""

    def __init__(self, spool: ResultSpool, path: Path) -> None:
        self._spool = spool
        self._path = path
        self._unfinished = path.with_name(f".{path.name}")
        self._file = self._unfinished.open("xb")
        self._one_at_a_time = threading.Lock()
        self._reserved = 0

    async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        """Write an object. Raises SpoolFull too."""
        await asyncio.to_thread(self._put, key, data, content_type)

    def _put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        size = size_of(data)
        head = json.dumps({"key": key, "type": content_type, "size": size}).encode() + b"\n"
        with self._one_at_a_time:
            self._spool._reserve(len(head) + size)
            self._reserved += len(head) + size
            self._file.write(head)
            if isinstance(data, bytes):
                self._file.write(data)
            else:
                shutil.copyfileobj(data, self._file)

    def commit(self) -> None:
        """Make the result durable: from now on it will be sent. Blocks."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.rename(self._path)
        sync_folder(self._path.parent)
        self._spool._sizes[self._path.name] = self._reserved
        self._end()

    def abandon(self) -> None:
        """Drop what was written."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)
        self._end()

    def _end(self) -> None:
        self._spool._release(self._reserved)
        self._reserved = 0


def size_of(data: bytes | BinaryIO) -> int:
    """Return how many bytes there are, in a file from its current position on."""
    if isinstance(data, bytes):
        return len(data)
    position = data.tell()
    data.seek(0, os.SEEK_END)
    size = data.tell() - position
    data.seek(position)
    return size


def _results_in(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if entry.name.endswith(SUFFIX) and not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def _locked(file: Path) -> int | None:
    """Open and lock a file; return its descriptor, or None if another process has the lock. Raises OSError."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
