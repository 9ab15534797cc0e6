"""Runs between a replica and its inference server, so that the server ends with the replica, however that ends.

    python -I -S server_guard.py GRACE_S COMMAND...

It is run as a file, needs only the standard library and starts in a few hundredths of a second. It writes one line to
stdout, `started PID` or `failed REASON`; the command's output goes to stderr. Its stdin is a pipe that only the replica
keeps open. At its end, or at SIGTERM, the server's process group and all its descendants get SIGTERM, and SIGKILL after
GRACE_S seconds. When the server ends by itself, its descendants are ended the same way, and the guard exits with the
server's code (128 + N for signal N, 127 if it could not be started).

The guard is two processes, each of which ends everything when the other is killed. On Linux no descendant escapes, not
even one that starts a session of its own; elsewhere only the process group is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
POLL_S = 0.05
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Prctl = Callable[[int, int], object]


def main(arguments: list[str]) -> int:
    """Fork into both processes; each returns its exit code."""
    grace_s, command = float(arguments[0]), arguments[1:]
    prctl = _prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # not inherited by the inner process
    outer = os.getpid()
    inner = os.fork()
    if inner:
        return _watch(inner)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != outer:  # it was killed meanwhile
        return 1
    os.setsid()  # a signal to the group of one process does not reach the other
    return _Guard(grace_s, prctl).run(command)


def _prctl() -> Prctl:
    """Return prctl(2), or a function that does nothing on systems without it."""
    if sys.platform != "linux":
        return lambda option, value: None
    libc = ctypes.CDLL(None)
    return lambda option, value: libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _watch(inner: int) -> int:
    """Run the outer process: wait for the inner one, and end its orphans if it was killed."""
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: os.kill(inner, signal.SIGTERM))
    os.close(0)
    os.close(1)  # the replica waits for the inner process by the end of this pipe
    status = None
    while status is None:
        pid, ended = os.waitpid(-1, 0)
        status = ended if pid == inner else None
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    while _reap()[1]:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return _exit_code(status)


class _Guard:
    """The inner process: starts the server and stops it."""

    def __init__(self, grace_s: float, prctl: Prctl) -> None:
        self._grace_s = grace_s
        self._prctl = prctl
        self._ending = False
        # Signals become bytes in a pipe, so one poll waits for every event.
        self._wake, write_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def run(self, command: list[str]) -> int:
        """Run the server until it ends or has to; returns its exit code."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
                preexec_fn=self._die_with_the_guard,  # safe, as there is one thread
            )
        except (OSError, ValueError) as error:
            _report(f"failed {error}")
            return 127
        process.returncode = 0  # waited for below, not by this object
        _report(f"started {process.pid}")
        status: int | None = None
        while status is None and not self._ending:
            self._wait(None)
            status = _reap()[0].get(process.pid)
        last = self._end_all(process.pid)
        return _exit_code(last if status is None else status)

    def _end(self, *_: object) -> None:
        self._ending = True

    def _die_with_the_guard(self) -> None:
        guard = os.getppid()
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it was killed meanwhile
            os._exit(1)

    def _wait(self, timeout_s: float | None) -> None:
        """Wait for a signal, the end of the replica's pipe, or the timeout."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if not self._ending:
            poll.register(0, select.POLLIN)
        for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
            if not os.read(descriptor, 4096):
                self._ending = True

    def _end_all(self, server: int) -> int:
        """End the server's group and all its descendants; returns the server's status if it ended only now, else 0."""
        self._ending = True
        deadline = time.monotonic() + self._grace_s
        signalled: set[int] = set()
        status = 0
        while True:
            ended, children_left = _reap()
            status = ended.get(server, status)
            if not children_left and not _signal_group(server, 0):
                return status
            if time.monotonic() >= deadline:
                _signal_group(server, signal.SIGKILL)
                for pid in _children():
                    os.kill(pid, signal.SIGKILL)
            elif server not in signalled:
                _signal_group(server, signal.SIGTERM)
                signalled.add(server)
            else:
                # Only once each: many programs take a second SIGTERM as "at once".
                for pid in set(_children()) - signalled:
                    if os.getpgid(pid) != server:
                        os.kill(pid, signal.SIGTERM)
                    signalled.add(pid)
            self._wait(POLL_S)


def _report(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the replica is gone, so stdin ends too
        os.write(1, f"{line}\n".encode())


def _reap() -> tuple[dict[int, int], bool]:
    """Reap ended children. Returns their statuses by process id, and whether children are left."""
    ended: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return ended, True
            ended[pid] = status
    except ChildProcessError:
        return ended, False


def _children() -> list[int]:
    """Return the process ids of all children, adopted ones included. None is reaped yet, so no id was reused."""
    found = []
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():
        # A process may end during the search.
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # after the name, which may contain anything
            if entry.isdigit() and int(fields[1]) == os.getpid():
                found.append(int(entry))
    return found


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; returns whether the group exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # the id belongs to another user by now, or, on macOS, to zombies
        return number != 0
    return True


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
