"""The store in a folder. Each write is atomic and durable."""

from __future__ import annotations

import errno
import hmac
import logging
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from serve_app.runtime.durable import sync_folder
from serve_app.runtime.secret_file import load_or_create_secret
from serve_app.settings import FolderStoreSettings, resolve
from serve_app.storage.store import StoreUnavailable, ThreadedStore, check_key

MARKER = ".ocr-store"
LEFT_BEHIND_S = 60
"""After this time an unfinished file counts as left by a killed process."""

log = logging.getLogger("ray.serve.store")

THREADS = 4  # writes wait for the disk, which more threads would not make faster


class FolderStore(ThreadedStore):
    """Keys are files below the configured folder, which is created if it is missing.

    Content types are not stored, as file extensions imply them. A process that is killed while it writes may leave a
    hidden `.*.tmp` file, which is never read.
    """

    def __init__(self, settings: FolderStoreSettings) -> None:
        super().__init__(settings.prefix, THREADS)
        self._root = resolve(settings.path)
        self._signing_key: bytes | None = None
        # Once the folder has been marked, it must stay the same one: see `_check_mounted`.
        self._marked = (self._root / MARKER).exists()

    def uri(self, key: str) -> str:
        return (self._root / self.full_key(key)).as_uri()

    def link(self, key: str, seconds: int) -> str:
        """Return `files/{full key}?expires=...&signature=...`, which the ingress serves with `open_link`."""
        full_key, expires = self.full_key(key), str(int(time.time()) + seconds)
        query = urlencode({"expires": expires, "signature": self._signature(full_key, expires)})
        return f"files/{quote(full_key)}?{query}"

    def open_link(self, full_key: str, expires: str, signature: str) -> BinaryIO:
        """Open the file of a link for reading.

        Raises PermissionError if the signature is wrong, TimeoutError if the link has expired, KeyError if the file
        does not exist, and StoreUnavailable.
        """
        if not hmac.compare_digest(self._signature(full_key, expires).encode(), signature.encode("utf-8", "replace")):
            raise PermissionError(full_key)
        if int(expires) <= time.time():
            raise TimeoutError(full_key)
        check_key(full_key)
        if any(part.startswith(".") for part in full_key.split("/")):
            raise KeyError(full_key)  # an internal file of the store
        return self._open(full_key)

    def _signature(self, full_key: str, expires: str) -> str:
        if self._signing_key is None:
            # In the store, so that all replicas share it and links survive restarts.
            file = self._root / ".link-key"
            self._check_mounted()  # a key in another folder would be lost once the right one is back
            if not file.exists():
                log.info("creating the key that signs links in %s; links signed with a former one stop working", file)
            try:
                self._signing_key = load_or_create_secret(file).encode()
            except OSError as error:
                raise StoreUnavailable(f"cannot use {file}: {error}") from error
        message = f"{expires}\n{full_key}".encode("utf-8", "replace")
        return hmac.new(self._signing_key, message, "sha256").hexdigest()

    def _put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        path = self._root / key
        try:
            temporary = self._write_beside(path, data)
            try:
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._sync_folders(path.parent)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {path}: {error}") from error

    def _get(self, key: str) -> bytes:
        with self._open(key) as file:
            return file.read()

    def _open(self, key: str) -> BinaryIO:
        path = self._root / key
        try:
            return path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._check_mounted()
            raise KeyError(key) from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {path}: {error}") from error

    def _keys_below(self, folder: str) -> list[str]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise StoreUnavailable(f"cannot list {folder}: {error}") from error

        self._check_mounted()
        found = os.walk(self._root / folder, onerror=fail)
        paths = [Path(parent, name) for parent, _, names in found for name in names if not _is_temporary(name)]
        return [str(path.relative_to(self._root)) for path in paths]

    def _delete(self, key: str) -> None:
        path = self._root / key
        try:
            path.unlink()
            # Remove folders that are empty now; rmdir keeps one that a file was put into meanwhile.
            for level in path.parents:
                if level == self._root:
                    break
                level.rmdir()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._check_mounted()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise StoreUnavailable(f"cannot delete {path}: {error}") from error

    def _remove_left_behind(self, folder: str) -> None:
        for parent, _, names in os.walk(self._root / folder, topdown=False):
            for path in (Path(parent, name) for name in names if _is_temporary(name)):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:  # a younger one may still be being written
                        path.unlink()
            with suppress(OSError):  # it is not empty
                os.rmdir(parent)

    def _check(self) -> None:
        try:
            self._make_folder(self._root)
            # Writes a byte, as a full disk may still take empty files.
            _write_temporary(self._root, b"\n").unlink()
        except OSError as error:
            raise StoreUnavailable(f"cannot write into {self._root}: {error}") from error

    def _write_beside(self, path: Path, data: bytes | BinaryIO) -> Path:
        while True:
            self._make_folder(path.parent)
            try:
                return _write_temporary(path.parent, data)
            except FileNotFoundError:
                # `_delete` removed the folder while it was empty. Nothing was read of the data yet, so try again.
                continue

    def _check_mounted(self) -> None:
        """Raise StoreUnavailable if the folder is not the one that was marked: its disk may be unmounted."""
        if (self._marked and not (self._root / MARKER).exists()) or (self._root.exists() and not self._root.is_dir()):
            raise StoreUnavailable(
                f"{self._root} is missing, or is another folder than before: it has no {MARKER}. "
                "Mount it again; if it was removed on purpose, restart the service."
            )

    def _mark(self) -> None:
        (self._root / MARKER).touch()
        self._marked = True

    def _make_folder(self, folder: Path) -> None:
        if self._marked and folder.is_dir() and folder != self._root:
            return
        self._check_mounted()
        missing = [level for level in (self._root, *self._root.parents) if not level.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for level in missing:  # folders below the root are synced with each write
            sync_folder(level.parent)
        if not self._marked:
            self._mark()

    def _sync_folders(self, folder: Path) -> None:
        # All levels, not only those that this call has created: another thread may just have created one and not
        # have synced it yet.
        for level in (folder, *folder.parents):
            sync_folder(level)
            if level == self._root:
                return


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _write_temporary(folder: Path, data: bytes | BinaryIO) -> Path:
    """Write `data` durably under a new hidden name in `folder`. Leaves nothing behind on failure."""
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
