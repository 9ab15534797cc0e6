"""The store of results: what callers see of it, and what its two kinds share.

Keys are made by the service: relative, '/'-separated, UTF-8. The configured `prefix` lives inside the
store, which puts it before every key; callers never add it, and ask `full_key` or `uri` when they have
to tell somebody else where a result lies.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, ParamSpec, Protocol, TypeVar

MAX_KEY_BYTES = 1024  # S3's limit
DELETED_AT_ONCE = 32
MAX_NAME_BYTES = 255  # of one part of a key: the limit of Linux file systems

P = ParamSpec("P")
R = TypeVar("R")


class StoreUnavailable(Exception):
    """The store cannot write or read now. `str` is for the log: it may hold paths and addresses."""


class Store(Protocol):
    """Where results are kept. Methods raise ValueError for a key that `check_key` refuses."""

    async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        """Write `data` whole, or a file from where it stands; it is durable on return, and replaces what was there.

        A caller that is cancelled leaves either the old value or the new one, never a part, and waits for a write
        that has begun: what comes after it comes after that, too. Raises StoreUnavailable.
        """

    async def get(self, key: str) -> bytes:
        """What was last put. Raises KeyError (with the full key) where there is nothing, StoreUnavailable."""

    async def open(self, key: str) -> BinaryIO:
        """What was last put, as a file to read from its start; the caller closes it. Raises as `get` does."""

    async def keys_below(self, folder: str) -> list[str]:
        """All keys that begin with `folder` and a '/', in order; none where there is no such folder.

        Raises StoreUnavailable.
        """

    async def delete(self, key: str) -> None:
        """It is as if nothing was ever put, also where nothing was. Raises StoreUnavailable."""

    async def delete_below(self, folder: str, *, but: str | None = None) -> None:
        """Delete all keys below a folder, and what writes that were killed have left there, but for one key.

        Raises StoreUnavailable.
        """

    async def check(self) -> None:
        """Raise StoreUnavailable when writing would fail; leaves nothing behind."""

    def full_key(self, key: str) -> str:
        """`key` with the configured prefix: relative to the bucket or the folder."""

    def uri(self, key: str) -> str:
        """s3://bucket/full/key, as it is, or file:///folder/full/key, percent-encoded."""

    def link(self, key: str, seconds: int) -> str:
        """Where anybody may read what was put, for so long: a URL, or what stands behind the service's own address.

        It blocks, the first time perhaps on a disk or on a network. Raises StoreUnavailable.
        """

    async def close(self) -> None:
        """Finish what has begun and give threads and connections back. May be called twice."""


def check_key(key: str) -> None:
    """Raise ValueError for a key that could leave the store, or that its two kinds would read differently."""
    parts = key.split("/")
    if key.startswith("/"):
        raise ValueError(f"key {key!r} is absolute")
    if "\0" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"key {key!r} holds NUL, or an empty part, '.' or '..'")
    if len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"key {key!r} is over {MAX_KEY_BYTES} bytes, or a part of it over {MAX_NAME_BYTES}")


class ThreadedStore(ABC):
    """A `Store` over blocking calls, in threads of its own: a slow store must not starve other work.

    `prefix` is a folder of keys: "a/b", "a/b/" and "/a/b" are the same. Raises ValueError for a prefix
    that is not a key.
    """

    def __init__(self, prefix: str, threads: int) -> None:
        self._prefix = prefix.strip("/")
        if self._prefix:
            check_key(self._prefix)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="store")

    async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        written = self._executor.submit(self._put, self.full_key(key), data, content_type)
        try:
            await asyncio.wrap_future(written)
        except asyncio.CancelledError:
            if not written.cancelled():
                await asyncio.wait({asyncio.wrap_future(written)})
            raise

    async def get(self, key: str) -> bytes:
        return await self._in_thread(self._get, self.full_key(key))

    async def open(self, key: str) -> BinaryIO:
        return await self._in_thread(self._open, self.full_key(key))

    async def keys_below(self, folder: str) -> list[str]:
        full = await self._in_thread(self._keys_below, self.full_key(folder))
        return sorted(key[len(self._prefix) + 1 if self._prefix else 0 :] for key in full)

    async def delete(self, key: str) -> None:
        await self._in_thread(self._delete, self.full_key(key))

    async def delete_below(self, folder: str, *, but: str | None = None) -> None:
        keys = [key for key in await self.keys_below(folder) if key != but]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            await asyncio.gather(*(self.delete(key) for key in keys[start : start + DELETED_AT_ONCE]))
        await self._in_thread(self._remove_left_behind, self.full_key(folder))

    async def check(self) -> None:
        await self._in_thread(self._check)

    def full_key(self, key: str) -> str:
        check_key(key)
        if not self._prefix:
            return key
        full = f"{self._prefix}/{key}"
        check_key(full)  # for its length
        return full

    @abstractmethod
    def uri(self, key: str) -> str: ...

    @abstractmethod
    def link(self, key: str, seconds: int) -> str: ...

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)

    async def _in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # Cancelling the wait drops a call that still queues and leaves a running one to finish.
        return await asyncio.wrap_future(self._executor.submit(call, *args, **kwargs))

    # The blocking calls; keys are full keys, checked.

    @abstractmethod
    def _put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None: ...

    @abstractmethod
    def _get(self, key: str) -> bytes: ...

    @abstractmethod
    def _open(self, key: str) -> BinaryIO: ...

    @abstractmethod
    def _keys_below(self, folder: str) -> list[str]: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _remove_left_behind(self, folder: str) -> None:
        """Delete what writes that were killed have left below a folder."""

    @abstractmethod
    def _check(self) -> None: ...
