"""Results in a folder, each write atomic and durable."""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from serve_app.secret_file import kept_secret
from serve_app.settings import FolderStoreSettings, resolve
from serve_app.storage.store import StoreUnavailable, ThreadedStore, check_key

THREADS = 4  # writes wait for the disk; more of them at once would not make it faster


class FolderStore(ThreadedStore):
    """Keys are files below the folder of the settings, which is made when missing.

    The content type is not kept: a file's extension says it. A process killed in the middle of a write
    may leave a hidden `.*.tmp` file, which nothing reads.
    """

    def __init__(self, settings: FolderStoreSettings) -> None:
        super().__init__(settings.prefix, THREADS)
        self._root = resolve(settings.path)
        self._signing_key: bytes | None = None

    def uri(self, key: str) -> str:
        return (self._root / self.full_key(key)).as_uri()

    def link(self, key: str, seconds: int) -> str:
        """`files/{full key}?expires=...&signature=...`, which the ingress serves with `open_link`."""
        full_key, expires = self.full_key(key), str(int(time.time()) + seconds)
        query = urlencode({"expires": expires, "signature": self._signature(full_key, expires)})
        return f"files/{quote(full_key)}?{query}"

    def open_link(self, full_key: str, expires: str, signature: str) -> BinaryIO:
        """The file of a link, to read.

        Raises PermissionError where the link was not made here, TimeoutError where its time is over, KeyError
        where the file is gone, StoreUnavailable.
        """
        if not hmac.compare_digest(self._signature(full_key, expires).encode(), signature.encode("utf-8", "replace")):
            raise PermissionError(full_key)
        if int(expires) <= time.time():
            raise TimeoutError(full_key)
        check_key(full_key)
        try:
            return (self._root / full_key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(full_key) from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {full_key}: {error}") from error

    def _signature(self, full_key: str, expires: str) -> str:
        if self._signing_key is None:
            # Beside the results: all who serve them have the same one, and links outlive each of them.
            file = self._root / ".link-key"
            try:
                self._signing_key = kept_secret(file).encode()
            except OSError as error:
                raise StoreUnavailable(f"cannot use {file}: {error}") from error
        message = f"{expires}\n{full_key}".encode("utf-8", "replace")
        return hmac.new(self._signing_key, message, "sha256").hexdigest()

    def _put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        path = self._root / key
        try:
            self._make_folder(path.parent)
            temporary = _write_temporary(path.parent, data)
            try:
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._sync_folders(path.parent)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {path}: {error}") from error

    def _get(self, key: str) -> bytes:
        path = self._root / key
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(key) from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {path}: {error}") from error

    def _check(self) -> None:
        try:
            self._make_folder(self._root)
            # Writes a byte: a full disk may still make empty files.
            _write_temporary(self._root, b"\n").unlink()
        except OSError as error:
            raise StoreUnavailable(f"cannot write into {self._root}: {error}") from error

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        missing = [level for level in (self._root, *self._root.parents) if not level.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for level in missing:  # what lies below the root is synced with each write
            _sync_folder(level.parent)

    def _sync_folders(self, folder: Path) -> None:
        # All levels, not only those made by this call: another thread may have made one a moment ago
        # and not have synced it yet.
        for level in (folder, *folder.parents):
            _sync_folder(level)
            if level == self._root:
                return


def _write_temporary(folder: Path, data: bytes | BinaryIO) -> Path:
    """Write `data` to disk under a new hidden name in `folder`; on failure nothing stays behind."""
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


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: without it a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems that sync names by themselves say this
            raise
    finally:
        os.close(descriptor)
