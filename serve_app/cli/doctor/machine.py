"""Checks of the machine: ports, shared memory, disks."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_app.cli.doctor.finding import GIB, Code, Finding, ok, problem, size, warning
from serve_app.cli.doctor.folders import nearest_existing
from serve_app.cli.doctor.variables import variable
from serve_app.settings import FolderStoreSettings, Settings, resolve

ASK_S = 2.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray has its object store
MOST_DISK_USED = 0.95
"""The share of its disk above which Ray writes no objects to it (its `local_fs_capacity_threshold`)."""

SOCKET_PATH_BYTES = 107
"""The longest path of a socket on Linux, less its end (unix(7))."""

RAY_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The path of Ray's socket with the longest name, below its temporary folder."""

HAPROXY_PORTS = {
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
}


def check_ports(http_options: dict[str, Any]) -> Iterator[Finding]:
    """Check whether the service can listen, or is there already. `http_options` are those of the Serve config."""
    host, port = str(http_options["host"]), int(http_options["port"])
    where = f"{host}:{port}"
    reason = _taken(host, port)
    if reason == errno.EADDRINUSE and _is_service("127.0.0.1" if host in ("0.0.0.0", "::") else host, port):  # noqa: S104
        yield ok("ports", f"the service listens on {where} already")
        return  # and its HAProxy on the others
    if reason == errno.EADDRINUSE:
        yield problem(
            "ports", Code.PORT_TAKEN, f"{where} is taken by another program: end it, or set another `http_options.port`"
        )
    elif reason is not None:
        why = os.strerror(reason)
        yield problem("ports", Code.PORT_NOT_ALLOWED, f"cannot listen on {where} ({why}): set other `http_options`")
    else:
        yield ok("ports", f"{where} is free")
    if variable("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return
    for name, default in HAPROXY_PORTS.items():
        text = variable(name) or ""
        number = int(text) if text.isdecimal() else default
        if _taken("0.0.0.0", number) is not None:  # noqa: S104 - HAProxy listens on all
            yield problem("ports", Code.PORT_TAKEN, f"{number}, which HAProxy needs, is taken: set {name}")


def _taken(host: str, port: int) -> int | None:
    """Return the errno of an attempt to listen; None if it is possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return None


def _is_service(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(
            f"http://{f'[{host}]' if ':' in host else host}:{port}/livez", timeout=ASK_S
        ) as response:
            return b'"alive"' in response.read(1000)
    except (OSError, ValueError):
        return False


def check_shared_memory() -> Iterator[Finding]:
    # Ray's own functions, as what it takes depends on the memory, the limits of a container and its variables.
    from ray._private.utils import estimate_available_memory, resolve_object_store_memory

    if SHARED_MEMORY.is_dir():
        yield judge_shared_memory(
            shutil.disk_usage(SHARED_MEMORY).total, resolve_object_store_memory(estimate_available_memory())
        )
    else:
        yield warning(
            "shared memory", Code.SHARED_MEMORY_SMALL, f"there is no {SHARED_MEMORY}: Ray keeps pages on its disk"
        )


def judge_shared_memory(total: int, wanted: int) -> Finding:
    """Compare the bytes of /dev/shm with those of Ray's object store."""
    if total >= wanted:
        return ok("shared memory", f"{SHARED_MEMORY} has {size(total)}, and Ray takes up to {size(wanted)}")
    return warning(
        "shared memory",
        Code.SHARED_MEMORY_SMALL,
        f"{SHARED_MEMORY} has {size(total)}, less than the {size(wanted)} of Ray's object store, which is then on the disk, "
        f"and slow: start a container with --shm-size={-(-wanted * 11 // (10 * GIB))}g",
    )


def check_disks(settings: Settings) -> Iterator[Finding]:
    """Check the folders of temporary files, the spool, results and Ray."""
    upload = int(settings.limits.body_mb * 1e6)
    yield check_folder("disk of temp_dir", resolve(settings.temp_dir), least=upload, wanted=max(GIB, 2 * upload))
    if settings.spool_mb:
        yield check_folder(
            "disk of spool_dir", resolve(settings.spool_dir), least=0, wanted=int(settings.spool_mb * 1e6)
        )
    if isinstance(settings.store, FolderStoreSettings):
        yield check_folder("disk of the store", resolve(settings.store.path), least=0, wanted=GIB)
    yield _check_ray_folder()


def check_folder(check: str, folder: Path, *, least: int, wanted: int) -> Finding:
    """Check that a folder takes writes, or can be made, and has room. Makes nothing that stays.

    Below `least` bytes it is a problem, below `wanted` a warning.
    """
    place = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\n" * 65_536)
            file.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return problem(
            check,
            Code.FOLDER_NOT_WRITABLE,
            f"{folder} cannot be written to ({error.strerror}): correct its owner or its disk",
        )
    if free >= wanted:
        return ok(check, f"{folder} has {size(free)} free")
    message = f"{folder} has only {size(free)} free, and may need {size(wanted)}: make room"
    return problem(check, Code.DISK_FULL, message) if free <= least else warning(check, Code.DISK_FULL, message)


def _check_ray_folder() -> Finding:
    check = "disk of Ray"
    folder = Path(variable("RAY_TMPDIR") or variable("TMPDIR") or "/tmp").absolute()  # noqa: S108 - as Ray chooses
    if len(os.fsencode(folder / RAY_SOCKET)) > SOCKET_PATH_BYTES:
        most = SOCKET_PATH_BYTES - len(RAY_SOCKET) - 1
        return problem(
            check,
            Code.PATH_TOO_LONG,
            f"{folder} is too long for the paths of Ray's sockets: set RAY_TMPDIR to at most {most} bytes",
        )
    found = check_folder(check, folder, least=0, wanted=GIB)
    usage = shutil.disk_usage(nearest_existing(folder))
    if found.code is None and usage.used > MOST_DISK_USED * (usage.used + usage.free):
        return warning(
            check,
            Code.DISK_FULL,
            f"the disk of {folder} is over {MOST_DISK_USED:.0%} full, and Ray writes no pages to it: make room",
        )
    return found
