"""Fetches a model with the library's downloader, in a child process.

The child can be stopped when a network swallows packets, its output is discarded, and the library's verdict that no
source is reachable, which it caches per process, ends with the child.
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
"""Longest wait until something of a model arrives, in seconds, its library being loaded. Asking all four of the
library's sources takes as long where a network swallows packets, and with a dead name server much longer."""

STALL_S = 300.0
"""Longest pause of a download that has begun, in seconds: unpacking and a slow disk are silent, too."""


def cache_folder() -> Path:
    """Paddle's cache of models. The variable is the library's, not an option of ours."""
    home = os.environ.get("PADDLE_PDX_CACHE_HOME", os.path.abspath(os.path.expanduser("~/.paddlex")))
    return Path(home, "official_models")


@contextmanager
def only_one(package: str) -> Iterator[None]:
    """Waits until no other process of ours fetches this package."""
    folder = cache_folder().parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"fetch-{package}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class FetchFailed(Exception):
    """`str(error)` says why, in the library's words or the system's."""


def fetch(package: str, patience_s: float) -> None:
    """Run the library's downloader in a child process. Raises FetchFailed, OSError."""
    # In the cache, so that what is complete moves into its place by a rename, and never half.
    temp = cache_folder().parent / "temp" / f"fetch-{package}"
    shutil.rmtree(temp, ignore_errors=True)  # of a process that was killed
    temp.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(temp)}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if "PADDLE_PDX_HUGGING_FACE_ENDPOINT" not in os.environ:  # a mirror may not answer as the check wants it
        # Without its check of the sources, the library tries each one for long.
        environment.pop("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", None)
    command = [sys.executable, "-P", "-W", "ignore", "-m", __spec__.name if __spec__ else __name__]
    child = subprocess.Popen(  # noqa: S603 - all parts are our own
        [*command, package, str(temp), str(patience_s)],
        stdin=subprocess.PIPE,  # its end tells the child that this process is gone
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
        raise FetchFailed(reason or f"the downloading process ended with status {status}")


def _main(package: str, temp: str, patience_s: str) -> None:
    """The child: fetches `package`, or prints in one line why not."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the library may print

    def fail(reason: str) -> None:
        print(" ".join(reason.split())[:300], file=answers, flush=True)
        os._exit(1)  # also from beside a call that hangs

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(1)

    def end_in_silence() -> None:
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
        threading.Thread(target=end_in_silence, daemon=True).start()
        library.official_models[package]
    except Exception as error:  # whatever the library and its four sources may raise
        fail(str(error.__cause__ or error) or type(error).__name__)
    os._exit(0)


def folder_bytes(folder: Path) -> int:
    """Total size of all files in a folder, in bytes. Files may appear and vanish during the walk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue  # renamed when it was complete
    return total


if __name__ == "__main__":
    _main(*sys.argv[1:])
