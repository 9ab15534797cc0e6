"""The finding of a check, and the codes of what can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

MIB, GIB = 2**20, 2**30


class Code(StrEnum):
    """What can be wrong, for programs: a code keeps its meaning. docs/operate.md lists them."""

    CHECK_FAILED = "check_failed"
    CHECK_TIMED_OUT = "check_timed_out"
    CLOCK_OFF = "clock_off"
    CLOCK_UNKNOWN = "clock_unknown"
    CONFIG_INVALID = "config_invalid"
    CONFIG_NAME_UNKNOWN = "config_name_unknown"
    DISK_FULL = "disk_full"
    FOLDER_NOT_WRITABLE = "folder_not_writable"
    FONTS_MISSING = "fonts_missing"
    GPU_DRIVER_OLD = "gpu_driver_old"
    GPU_MISSING = "gpu_missing"
    GPU_TOO_FEW = "gpu_too_few"
    KEYS_NOT_SHARED = "keys_not_shared"
    LANGUAGE_MISSING = "language_missing"
    MODELS_MISSING = "models_missing"
    PACKAGE_MISSING = "package_missing"
    PATH_TOO_LONG = "path_too_long"
    PORT_NOT_ALLOWED = "port_not_allowed"
    PORT_TAKEN = "port_taken"
    RAY_TOKEN_MISSING = "ray_token_missing"  # noqa: S105 - a code
    RAY_TOKEN_OFF = "ray_token_off"  # noqa: S105
    RAY_VERSION_WRONG = "ray_version_wrong"
    SECRETS_INVALID = "secrets_invalid"
    SERVER_AWAY = "server_away"
    SERVER_COMMAND_MISSING = "server_command_missing"
    SHARED_MEMORY_SMALL = "shared_memory_small"
    STORE_AWAY = "store_away"
    STORE_REFUSES = "store_refuses"


class Status(StrEnum):
    """`WARNING`: the service runs, but not as well as it could, or not for long. `PROBLEM`: it cannot do its work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of a check. `message` says what was found, in one line, and what to do about it. It has no secrets."""

    check: str
    status: Status
    message: str
    code: Code | None = None


@dataclass(frozen=True)
class Check:
    """A check and its name, in case it ends without a finding. `find` may block; it runs in a thread of its own."""

    name: str
    find: Callable[[], Iterable[Finding]]


def ok(check: str, message: str) -> Finding:
    return Finding(check, Status.OK, message)


def warning(check: str, code: Code, message: str) -> Finding:
    return Finding(check, Status.WARNING, message, code)


def problem(check: str, code: Code, message: str) -> Finding:
    return Finding(check, Status.PROBLEM, message, code)


def size(count: float) -> str:
    """Return a number of bytes for people, such as `1.5 GiB`."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
