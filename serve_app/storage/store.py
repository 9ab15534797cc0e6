"""The interface of the store, and what its two kinds share.

The service makes the keys: relative, '/'-separated, UTF-8. The store itself puts the configured `prefix` before every
key. Callers never add it; they use `full_key` or `uri` to report where an object is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, TypeVar

from serve_app.metrics.catalogue import STORE_ERRORS

MAX_KEY_BYTES = 1024  # S3's limit
CONCURRENT_DELETES = 32
MAX_NAME_BYTES = 255  # of one part of a key; the limit of Linux file systems

R = TypeVar("R")


class StoreUnavailable(Exception):
    """The store cannot read or write now. The message is for the log only, as it may contain paths and addresses."""


class Store(Protocol):
    """Bytes by key. Methods raise ValueError for a key that `check_key` refuses."""

    async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        """Write `data`, or a file from its current position, and replace an earlier value. Durable on return.

        If the caller is cancelled, the key has either the old value or the new one. A write that has begun is waited
        for even then, so it cannot overtake later ones. Raises StoreUnavailable.
        """

    async def get(self, key: str) -> bytes:
        """Return the value. Raises KeyError (with the full key) if there is none, and StoreUnavailable."""

    async def open(self, key: str) -> BinaryIO:
        """Open the value for reading from its start; the caller closes it. Raises the errors of `get`."""

    async def keys_below(self, folder: str) -> list[str]:
        """Return all keys that begin with `folder` and a '/', in order. Raises StoreUnavailable."""

    async def delete(self, key: str) -> None:
        """Delete a key, if it exists. Raises StoreUnavailable."""

    async def delete_below(self, folder: str, *, but: str | None = None) -> None:
        """Delete all keys below a folder except `but`, and what killed writers have left there.

        Raises StoreUnavailable.
        """

    async def check(self) -> None:
        """Raise StoreUnavailable if writing would fail. Leaves nothing behind."""

    def full_key(self, key: str) -> str:
        """Return `key` with the configured prefix: relative to the bucket, or to the folder."""

    def uri(self, key: str) -> str:
        """Return s3://bucket/full/key, unencoded, or file:///folder/full/key, percent-encoded."""

    def link(self, key: str, seconds: int) -> str:
        """Return a link to the value that works for `seconds`: a URL, or a path below the service's base URL.

        Blocks; the first time perhaps on a disk or a network. Raises StoreUnavailable.
        """

    async def close(self) -> None:
        """Wait for running calls, and release threads and connections. May be called twice."""


def check_key(key: str) -> None:
    """Raise ValueError for a key that could escape the store, or that its two kinds would interpret differently."""
    parts = key.split("/")
    if key.startswith("/"):
        raise ValueError(f"key {key!r} is absolute")
    if "\0" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"key {key!r} holds NUL, or an empty part, '.' or '..'")
    if len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"key {key!r} is over {MAX_KEY_BYTES} bytes, or a part of it over {MAX_NAME_BYTES}")


@contextmanager
def _errors_counted(call: Callable[..., Any]) -> Iterator[None]:
    """Count the StoreUnavailable of a blocking call of ThreadedStore, by the call's name."""
    try:
        yield
    except StoreUnavailable:
        STORE_ERRORS.inc(operation=call.__name__.lstrip("_"))
        raise


class ThreadedStore(ABC):
    """A `Store` over blocking calls, which run in its own threads so that a slow store does not starve other work.

    Files have threads of their own: small objects, such as the beats by which replicas know each other, never wait for them.

    The prefixes "a/b", "a/b/" and "/a/b" are the same. Raises ValueError for a prefix that is not a key.
    """

    def __init__(self, prefix: str, threads: int) -> None:
        self._prefix = prefix.strip("/")
        if self._prefix:
            check_key(self._prefix)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._files = ThreadPoolExecutor(threads, thread_name_prefix="store-files")

    async def put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        executor = self._executor if isinstance(data, bytes) else self._files
        written = executor.submit(self._put, self.full_key(key), data, content_type)
        try:
            with _errors_counted(self._put):
                await asyncio.wrap_future(written)
        except asyncio.CancelledError:
            if not written.cancelled():
                await asyncio.wait({asyncio.wrap_future(written)})
            raise

    async def get(self, key: str) -> bytes:
        return await self._in_thread(self._get, self.full_key(key))

    async def open(self, key: str) -> BinaryIO:
        return await self._in_thread(self._open, self.full_key(key), executor=self._files)

    async def keys_below(self, folder: str) -> list[str]:
        full = await self._in_thread(self._keys_below, self.full_key(folder))
        return sorted(key[len(self._prefix) + 1 if self._prefix else 0 :] for key in full)

    async def delete(self, key: str) -> None:
        await self._in_thread(self._delete, self.full_key(key))

    async def delete_below(self, folder: str, *, but: str | None = None) -> None:
        keys = [key for key in await self.keys_below(folder) if key != but]
        for start in range(0, len(keys), CONCURRENT_DELETES):
            await asyncio.gather(*(self.delete(key) for key in keys[start : start + CONCURRENT_DELETES]))
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
        for executor in (self._executor, self._files):
            await asyncio.to_thread(executor.shutdown)

    async def _in_thread(self, call: Callable[..., R], *args: Any, executor: ThreadPoolExecutor | None = None) -> R:
        # Cancelling the wait drops a call that is still queued, and lets a running one finish.
        with _errors_counted(call):
            return await asyncio.wrap_future((executor or self._executor).submit(call, *args))

    # The blocking calls. Keys are full keys that have been checked.

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
        """Delete what killed writers have left below a folder."""

    @abstractmethod
    def _check(self) -> None: ...
