"""A launched inference server is there, comes back when it dies, and never outlives its replica."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.recognition.engines.paddleocr_vl.server_process import PORTS, ServerProcess
from serve_app.settings import VlmServerLaunchSettings

REPOSITORY = Path(__file__).parents[2]
STAND_IN = (sys.executable, str(REPOSITORY / "tests" / "support" / "vlm_server.py"), "--port", "{port}")
DEADLINE_S = 20.0

# A server with a child in its process group and one in a session of its own; all three may ignore SIGTERM.
FAMILY = """
import json, os, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which children inherit
child = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
pids = [os.getpid(), subprocess.Popen(child).pid, subprocess.Popen(child, start_new_session=True).pid]
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(pids, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""

# A replica: it starts the server of its arguments, and another child, which gets every inheritable file.
REPLICA = """
import subprocess, sys, time
from serve_app.recognition.engines.paddleocr_vl.server_process import ServerProcess
from serve_app.settings import VlmServerLaunchSettings
server = ServerProcess(VlmServerLaunchSettings(log_file=sys.argv[1], command=sys.argv[2:]), grace_s=0.3)
server.start()
while server.pid is None:
    time.sleep(0.01)
other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], close_fds=False)
print(other.pid, flush=True)
time.sleep(600)
"""


class Records(logging.Handler):
    """The messages of the server's log, to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put(record.getMessage())

    def next(self) -> str:
        return self.messages.get(timeout=DEADLINE_S)


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    logger = logging.getLogger("ray.serve.vlm_server")
    before = logger.level
    logger.addHandler(records)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(records)
    logger.setLevel(before)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Makes servers, not started yet, with a grace time of 5 s; they are stopped afterwards."""
    servers = []

    def make(*command: str, **options: Any) -> ServerProcess:
        settings = VlmServerLaunchSettings(command=command, log_file=str(tmp_path / "logs" / "server.log"))
        servers.append(ServerProcess(settings, **{"grace_s": 5.0, "first_delay_s": 0.05, **options}))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


class Family:
    """The processes of a FAMILY server, by their handles: a reused process id is not mistaken for them."""

    def __init__(self, folder: Path, temper: str = "gentle") -> None:
        self._file = folder / "family.json"
        script = folder / "family.py"
        script.write_text(FAMILY)
        self.command = (sys.executable, "-S", str(script), str(self._file), temper)
        self._seen: list[psutil.Process] = []

    def members(self) -> list[psutil.Process]:
        """Of the run that has started or is starting: the server, its child, its child in another session."""
        until(self._file.exists)
        members = [psutil.Process(pid) for pid in json.loads(self._file.read_text())]
        self._file.unlink()
        self._seen += members
        return members

    def kill(self) -> None:
        kill(*self._seen)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    family.kill()


@pytest.fixture
def stubborn_family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path, "stubborn")
    yield family
    family.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    """Ended, whether or not somebody has waited for it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until_gone(*processes: psutil.Process) -> None:
    until(lambda: all(is_gone(process) for process in processes))


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        if not is_gone(process):
            process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def guards(server: psutil.Process) -> tuple[psutil.Process, psutil.Process]:
    """The outer and the inner process of the guard of a server."""
    inner = server.parent()
    assert inner is not None
    outer = inner.parent()
    assert outer is not None
    assert "server_guard" in " ".join(outer.cmdline()) and "server_guard" in " ".join(inner.cmdline())
    return outer, inner


def test_the_url_is_there_at_once_and_the_server_soon(
    launch: Callable[..., ServerProcess], records: Records, tmp_path: Path
) -> None:
    server = launch(*STAND_IN)
    url = server.start()
    port = httpx.URL(url).port
    assert url == f"http://127.0.0.1:{port}/v1"
    assert port in PORTS
    log = tmp_path / "logs" / "server.log"
    assert records.next() == f"inference server started (pid {server.pid}, port {port}, log {log})"
    until(lambda: answers(url))
    assert f"READY {port}" in log.read_text()
    assert server.pid is not None
    process = psutil.Process(server.pid)
    everyone = [process, *guards(process)]
    server.stop()
    assert records.next() == "inference server ended with code 0, as requested"
    until_gone(*everyone)
    assert not answers(url)


def test_a_killed_server_comes_back_at_its_url(launch: Callable[..., ServerProcess], records: Records) -> None:
    server = launch(*STAND_IN)
    url = server.start()
    assert "started" in records.next()
    until(lambda: answers(url))
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert records.next() == "inference server ended with code 137; restarting in 0.05 s"
    assert "started" in records.next()
    until(lambda: answers(url))
    assert server.pid not in (None, first)


def test_what_a_killed_server_leaves_behind_is_ended_before_the_next_one_starts(
    launch: Callable[..., ServerProcess], family: Family, records: Records
) -> None:
    launch(*family.command).start()
    process, *children = family.members()
    process.kill()
    assert "started" in records.next()
    assert "ended with code 137" in records.next()
    assert all(is_gone(child) for child in children)
    assert "started" in records.next()
    family.members()


def test_the_pause_grows_while_the_command_fails(launch: Callable[..., ServerProcess], records: Records) -> None:
    launch(sys.executable, "-S", "-c", "raise SystemExit(3)", longest_delay_s=0.2).start()
    lines = [records.next() for _ in range(10)]
    assert all(line.startswith("inference server started") for line in lines[::2])
    delays = (0.05, 0.1, 0.2, 0.2, 0.2)
    assert lines[1::2] == [f"inference server ended with code 3; restarting in {delay:g} s" for delay in delays]


def test_the_pause_is_short_again_after_a_steady_run(launch: Callable[..., ServerProcess], records: Records) -> None:
    launch(sys.executable, "-S", "-c", "raise SystemExit(3)", steady_s=0).start()
    assert [records.next().rpartition("; ")[2] for _ in range(6)][1::2] == ["restarting in 0.05 s"] * 3


def test_a_missing_command_is_one_clear_line_and_tried_again(
    launch: Callable[..., ServerProcess], records: Records
) -> None:
    launch("no-such-command", "--port", "{port}").start()
    reason = "inference server could not be started: [Errno 2] No such file or directory: 'no-such-command'"
    assert [records.next(), records.next()] == [f"{reason}; restarting in 0.05 s", f"{reason}; restarting in 0.1 s"]


def test_a_log_file_that_cannot_be_written_is_a_clear_line(
    launch: Callable[..., ServerProcess], records: Records, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    launch(*STAND_IN).start()
    assert records.next().startswith("inference server could not be started: [Errno 17] File exists")


def test_stop_during_a_pause_returns_at_once(launch: Callable[..., ServerProcess], records: Records) -> None:
    server = launch("no-such-command", first_delay_s=600)
    server.start()
    records.next()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 2
    assert records.messages.empty()


def test_stop_ends_everything_although_it_ignores_sigterm(
    launch: Callable[..., ServerProcess], stubborn_family: Family
) -> None:
    server = launch(*stubborn_family.command, grace_s=0.3)
    server.start()
    members = stubborn_family.members()
    everyone = [*members, *guards(members[0])]
    began = time.monotonic()
    server.stop()
    assert 0.3 <= time.monotonic() - began < 4
    until_gone(*everyone)


def test_stop_of_a_willing_family_takes_no_grace_time(launch: Callable[..., ServerProcess], family: Family) -> None:
    server = launch(*family.command, grace_s=60)
    server.start()
    members = family.members()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    until_gone(*members)


@pytest.mark.parametrize("temper", ["gentle", "stubborn"])
def test_nothing_outlives_a_killed_replica(tmp_path: Path, temper: str) -> None:
    family = Family(tmp_path, temper)
    arguments = [str(tmp_path / "server.log"), *family.command]
    replica = subprocess.Popen([sys.executable, "-c", REPLICA, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert replica.stdout is not None
    other = None
    try:
        members = family.members()
        everyone = [*members, *guards(members[0])]
        other = psutil.Process(int(replica.stdout.readline()))
        replica.kill()
        replica.wait()
        until_gone(*everyone)
        assert not is_gone(other)
    finally:
        replica.kill()
        replica.wait()
        replica.stdout.close()
        family.kill()
        if other is not None:
            kill(other)


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_killed_guard_leaves_nothing_and_the_server_comes_back(
    launch: Callable[..., ServerProcess], family: Family, records: Records, which: str
) -> None:
    launch(*family.command).start()
    members = family.members()
    outer, inner = guards(members[0])
    assert "started" in records.next()
    (outer if which == "outer" else inner).kill()
    assert records.next() == "inference server ended with code 137; restarting in 0.05 s"
    until_gone(outer, inner, *members)
    assert "started" in records.next()
    family.members()


def test_the_server_sees_no_secrets_of_the_service(
    launch: Callable[..., ServerProcess], records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_API_KEYS", "alice=forbidden")
    monkeypatch.setenv("OCR_S3_SECRET_ACCESS_KEY", "forbidden")
    monkeypatch.setenv("HF_HOME", "of-the-operator")
    launch(sys.executable, "-S", "-c", "import os; print(dict(os.environ), {'{port}'})").start()
    assert "started" in records.next()
    assert "ended with code 0" in records.next()
    output = (tmp_path / "logs" / "server.log").read_text()
    assert "of-the-operator" in output
    assert "forbidden" not in output


def test_ports_in_use_are_not_taken(launch: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    module = "serve_app.recognition.engines.paddleocr_vl.server_process"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(f"{module}.PORTS", [port] * 50)
        url = launch("no-such-command").start()
    assert httpx.URL(url).port != port
