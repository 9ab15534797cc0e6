"""An inference server that a replica starts, watches and stops as its child."""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from serve_app.settings import VlmServerLaunchSettings, resolve

log = logging.getLogger("ray.serve.vlm_server")

HOST = "127.0.0.1"
GUARD = Path(__file__).with_name("server_guard.py")
LARGEST_LOG = 100_000_000
"""Bytes. A server that is started when the log is longer gets a new one, and the former one is kept beside it."""
GRACE_S = 10.0
"""Seconds that the server has to end by itself after SIGTERM."""
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
"""Pauses before the server is started again, in seconds: the first one, which doubles up to the longest one."""
STEADY_S = 60.0
"""After a run of at least this many seconds, the next pause is the first one again."""
MARGIN_S = 5.0

# Below the range from which Linux takes ports of outgoing connections: a server opens its port late, or again after a
# restart, and must not find a connection on it.
PORTS = range(20_000, 30_000)

# Secrets of this service, which code that comes with a model must not see.
_SECRETS = frozenset({"OCR_API_KEYS", "OCR_S3_ACCESS_KEY_ID", "OCR_S3_SECRET_ACCESS_KEY"})


class ServerProcess:
    """Runs the command of `settings` from `start` to `stop`, and restarts it whenever it ends.

    The server never outlives this process, however it ends; see `server_guard`.
    """

    def __init__(
        self,
        settings: VlmServerLaunchSettings,
        *,
        grace_s: float = GRACE_S,
        first_delay_s: float = FIRST_DELAY_S,
        longest_delay_s: float = LONGEST_DELAY_S,
        steady_s: float = STEADY_S,
    ) -> None:
        self._settings = settings
        self._grace_s = grace_s
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._steady_s = steady_s
        self._log_file = resolve(settings.log_file)
        self._port = 0
        self._pid: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # no guard may start after `stop` has looked for one
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vlm-server", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the server, or None while it does not run."""
        return self._pid

    def start(self) -> str:
        """Start the server in the background; call once. Returns its address up to `/v1`, which survives restarts.

        Failures of the server are logged, and it is started again.
        """
        self._port = _free_port()
        self._thread.start()
        return f"http://{HOST}:{self._port}/v1"

    def stop(self) -> None:
        """Stop the server and all its processes. Blocks for up to the grace time and a few seconds."""
        with self._lock:
            self._stopping.set()
            if self._guard is not None and self._guard.stdin is not None:
                self._guard.stdin.close()
        if self._thread.ident is None:
            return  # never started
        self._thread.join(self._grace_s + MARGIN_S)
        if self._thread.is_alive():  # a process is stuck in the kernel, for example in a driver
            log.error("inference server (pid %s) survived SIGKILL", self._pid)

    def _watch(self) -> None:
        delay_s = self._first_delay_s
        while not self._stopping.is_set():
            began = time.monotonic()
            end = self._run()
            if self._stopping.is_set():
                break
            if time.monotonic() - began >= self._steady_s:
                delay_s = self._first_delay_s
            log.error("%s; restarting in %g s", end, delay_s)
            self._stopping.wait(delay_s)
            delay_s = min(2 * delay_s, self._longest_delay_s)

    def _run(self) -> str:
        """Run the server once, until it ends; returns a sentence on its end for the log."""
        try:
            guard = self._start_guard()
        except OSError as error:
            return f"inference server could not be started: {error}"
        if guard is None:
            return "inference server was stopped before it started"
        assert guard.stdin is not None and guard.stdout is not None
        with guard.stdout:
            state, _, detail = guard.stdout.readline().decode(errors="replace").strip().partition(" ")
            if state == "started":
                self._pid = int(detail)
                log.info("inference server started (pid %s, port %d, log %s)", detail, self._port, self._log_file)
            guard.stdout.read()  # waits for the end of the guard's two processes, which write nothing more
        code = guard.wait()
        self._pid = None
        with self._lock:
            self._guard = None
            guard.stdin.close()
        if state == "failed":
            return f"inference server could not be started: {detail}"
        # A guard that was killed took the server with it.
        ended = f"inference server ended with code {code if code >= 0 else 128 - code}"
        if self._stopping.is_set():
            log.info("%s, as requested", ended)
        return ended

    def _start_guard(self) -> subprocess.Popen[bytes] | None:
        """Start the guard. Returns None if `stop` was called. Raises OSError, also from the log file."""
        command = [part.replace("{port}", str(self._port)) for part in self._settings.command]
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if self._log_file.stat().st_size > LARGEST_LOG:
                self._log_file.replace(self._log_file.with_name(f"{self._log_file.name}.1"))
        with self._log_file.open("ab") as output, self._lock:
            output.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} on port {self._port}\n".encode())
            output.flush()
            if self._stopping.is_set():
                return None
            # The guard ends when this process closes its stdin. subprocess opens that pipe with O_CLOEXEC, so no other
            # child keeps it open. Not `-m`, which would import this package and its parents first.
            self._guard = subprocess.Popen(  # noqa: S603 - the operator's own command
                [sys.executable, "-I", "-S", str(GUARD), str(self._grace_s), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                env=environment,
                start_new_session=True,  # signals to the replica's group do not reach the guard
            )
            return self._guard


def _free_port() -> int:
    """Find a free port of the loopback address. Raises OSError if there is none."""
    # Not the shared generator: libraries of several replicas may seed it alike.
    for port in random.SystemRandom().sample(PORTS, 50):
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
