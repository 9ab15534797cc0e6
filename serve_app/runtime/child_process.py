"""What processes that parse files of strangers have in common: no secrets, little memory, and an end with their parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile

# These variables and no others.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return environment | {"TMPDIR": tempfile.gettempdir(), "OPENBLAS_NUM_THREADS": "1"}


def python_module(name: str) -> list[str]:
    """The command that runs a module of ours in this interpreter."""
    return [sys.executable, "-P", "-W", "ignore", "-X", "faulthandler", "-m", name]


def die_with(parent: int) -> None:
    """In the child: end with the thread of `parent` (a pid) that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the parent is gone")


def limit_memory(memory_bytes: int) -> None:
    """In the child: so much address space, and no core dumps."""
    for kind, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
