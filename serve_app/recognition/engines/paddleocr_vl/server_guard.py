"""Stands between a replica and its inference server: however the replica ends, the server ends too.

    python -I -S server_guard.py GRACE_S COMMAND...

Run as a file, it needs the standard library only and starts in a few hundredths of a second. It writes one
line to stdout, `started PID` or `failed REASON`, and gives the command stderr for its output. Its stdin is a
pipe that only the replica holds open: at its end, or at SIGTERM, the server's process group and whatever
else it left behind get SIGTERM, and SIGKILL after GRACE_S seconds. When the server ends by itself, what it
left behind is ended the same way, and the guard exits with its code (128 + N for signal N, 127 if it could
not be started).

There are two processes, each of which ends everything when the other is killed. On Linux nothing escapes
them, not even what starts a session of its own; elsewhere only the process group is ended.
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
    """Both processes; each returns its exit code."""
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
    os.setsid()  # a signal to one of the two groups leaves the other process
    return _Guard(grace_s, prctl).run(command)


def _prctl() -> Prctl:
    """prctl(2), which does nothing where there is none."""
    if sys.platform != "linux":
        return lambda option, value: None
    libc = ctypes.CDLL(None)
    return lambda option, value: libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _watch(inner: int) -> int:
    """The outer process: waits for the inner one, whose orphans come here if it was killed."""
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: os.kill(inner, signal.SIGTERM))
    os.close(0)
    os.close(1)  # that this ends tells the replica that the inner process is gone
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
    """The inner process: starts the server and ends it."""

    def __init__(self, grace_s: float, prctl: Prctl) -> None:
        self._grace_s = grace_s
        self._prctl = prctl
        self._told_to_end = False
        # Signals become bytes in a pipe, so that one poll waits for all that can happen.
        self._wake, write_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def run(self, command: list[str]) -> int:
        """The server's exit code."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
                preexec_fn=self._die_with_the_guard,  # there is one thread, so this is safe
            )
        except (OSError, ValueError) as error:
            _report(f"failed {error}")
            return 127
        process.returncode = 0  # it is waited for below, not by this object
        _report(f"started {process.pid}")
        status: int | None = None
        while status is None and not self._told_to_end:
            self._wait(None)
            status = _reap()[0].get(process.pid)
        last = self._end_all(process.pid)
        return _exit_code(last if status is None else status)

    def _end(self, *_: object) -> None:
        self._told_to_end = True

    def _die_with_the_guard(self) -> None:
        guard = os.getppid()
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it was killed meanwhile
            os._exit(1)

    def _wait(self, timeout_s: float | None) -> None:
        """Until a signal comes, the pipe from the replica ends, or the time is over."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if not self._told_to_end:
            poll.register(0, select.POLLIN)
        for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
            if not os.read(descriptor, 4096):
                self._told_to_end = True

    def _end_all(self, server: int) -> int:
        """End the server's group and all that was left behind; the server's status, if it ended only now."""
        self._told_to_end = True
        deadline = time.monotonic() + self._grace_s
        asked: set[int] = set()
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
            elif server not in asked:
                _signal_group(server, signal.SIGTERM)
                asked.add(server)
            else:
                # Once for each: a second SIGTERM is often read as "at once".
                for pid in set(_children()) - asked:
                    if os.getpgid(pid) != server:
                        os.kill(pid, signal.SIGTERM)
                    asked.add(pid)
            self._wait(POLL_S)


def _report(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the replica is gone; stdin ends, too
        os.write(1, f"{line}\n".encode())


def _reap() -> tuple[dict[int, int], bool]:
    """Statuses of the children that ended, by process id, and whether children are left."""
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
    """Children of this process, adopted ones among them; not reaped yet, so their ids are theirs."""
    found = []
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():
        # A process may end while one looks.
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # behind the name, which may hold anything
            if entry.isdigit() and int(fields[1]) == os.getpid():
                found.append(int(entry))
    return found


def _signal_group(group: int, number: int) -> bool:
    """Whether there is such a process group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user by now, or, on macOS, zombies
        return number != 0
    return True


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
