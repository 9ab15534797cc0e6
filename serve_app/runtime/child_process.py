"""Child processes that parse untrusted files: no secrets, limited memory, and they end with their parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile

# Variables that a child inherits. All others, secrets among them, stay with the parent.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_environment() -> dict[str, str]:
    """Return the environment variables of a child."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return environment | {"TMPDIR": tempfile.gettempdir(), "OPENBLAS_NUM_THREADS": "1"}


def python_module(name: str) -> list[str]:
    """Return the command line that runs the module `name` in this interpreter."""
    return [sys.executable, "-P", "-W", "ignore", "-X", "faulthandler", "-m", name]


def child_command(module: str, memory_bytes: int, *arguments: object) -> list[str]:
    """Return the command line of a child that calls `enter_child`; `memory_bytes` limits its address space."""
    return [*python_module(module), str(os.getpid()), str(memory_bytes), *map(str, arguments)]


def enter_child() -> list[str]:
    """Apply the limits of `child_command` to this process, which it started. Returns the other arguments."""
    parent, memory_bytes, *arguments = sys.argv[1:]
    _end_with(int(parent))
    _limit_memory(int(memory_bytes))
    return arguments


def exit_reason(status: int) -> str:
    """Describe the end of a process by its return code as in `subprocess.Popen`: "SIGKILL" or "exit status 1"."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end_with(parent: int) -> None:
    """End with the thread of `parent` (a pid) that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the parent is gone")


def _limit_memory(memory_bytes: int) -> None:
    """Limit the address space, and write no core dumps."""
    for kind, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
