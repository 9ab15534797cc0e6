"""Downloads a model with the library's downloader, in a child process.

The child can be killed if the network drops packets, and its output is discarded. The library caches per process that no
source is reachable; with a new child it checks again.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 15.0
"""Longest wait for a model's first bytes, in seconds, once the library is loaded. If the network drops packets, the
library needs this long to check its four sources; with a dead name server it needs much longer."""

STALL_S = 300.0
"""Longest pause within a download, in seconds: unpacking to a slow disk makes no visible progress either."""


def cache_folder() -> Path:
    """Return Paddle's model cache. The variable is the library's, not a setting of this service."""
    home = os.environ.get("PADDLE_PDX_CACHE_HOME", os.path.abspath(os.path.expanduser("~/.paddlex")))
    return Path(home, "official_models")


@contextmanager
def download_lock(package: str) -> Iterator[None]:
    """Hold the lock for downloads of this package. Blocks while another process holds it."""
    folder = cache_folder().parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"fetch-{package}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class FetchFailed(Exception):
    """A download failed. `str(error)` is the reason given by the library or the system."""


def fetch(package: str, patience_s: float) -> None:
    """Run the library's downloader in a child process. Raises FetchFailed, OSError."""
    # Within the cache, so a complete model is moved to its folder by an atomic rename.
    temp = cache_folder().parent / "temp" / f"fetch-{package}"
    shutil.rmtree(temp, ignore_errors=True)  # left by a killed process
    temp.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(temp)}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if "PADDLE_PDX_HUGGING_FACE_ENDPOINT" not in os.environ:  # a mirror may fail the check
        # Without the library's check of its sources, it spends a long time on each one.
        environment.pop("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", None)
    command = [sys.executable, "-P", "-W", "ignore", "-m", __spec__.name if __spec__ else __name__]
    child = subprocess.Popen(  # noqa: S603 - all parts are our own
        [*command, package, str(temp), str(patience_s)],
        stdin=subprocess.PIPE,  # closes when this process ends, which ends the child
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    try:
        assert child.stdout is not None
        reason = child.stdout.read().strip()
        status = child.wait()
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(temp, ignore_errors=True)
    if status != 0:
        raise FetchFailed(reason or f"the download process exited with status {status}")


def _main(package: str, temp: str, patience_s: str) -> None:
    """Run the child: download `package`, or print the reason of the failure in one line."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the library may print

    def fail(reason: str) -> None:
        print(" ".join(reason.split())[:300], file=output, flush=True)
        os._exit(1)  # sys.exit() would not end a hanging call

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(1)

    def end_when_stalled() -> None:
        size, since = 0, time.monotonic()
        while True:
            limit_s = STALL_S if size else float(patience_s)
            if time.monotonic() - since > limit_s:
                fail(f"nothing arrived for {limit_s:g} s")
            time.sleep(0.5)
            if (now := folder_bytes(Path(temp))) != size:
                size, since = now, time.monotonic()

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        library = importlib.import_module("paddlex.inference.utils.official_models")
        threading.Thread(target=end_when_stalled, daemon=True).start()
        library.official_models[package]
    except Exception as error:  # the library and its sources may raise anything
        fail(str(error.__cause__ or error) or type(error).__name__)
    os._exit(0)


def folder_bytes(folder: Path) -> int:
    """Return the total size of all files in a folder, in bytes. Files may appear and vanish meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue  # complete, and renamed meanwhile
    return total


if __name__ == "__main__":
    _main(*sys.argv[1:])
