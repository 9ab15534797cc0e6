"""A real S3 server for the tests: OpenStack Swift with its S3 API, on loopback, without root.

    python -m tests.support.swift --dir D --port P

prints `READY http://127.0.0.1:P` when it answers, and runs until SIGTERM or Ctrl-C. All it writes lies
under D, which may be used again: data is kept. It checks signatures and keeps objects on disk, which
in-process imitations of S3 do not; it answers 501 to server-side encryption.
"""

from __future__ import annotations

import argparse
import ctypes
import getpass
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ACCESS_KEY = "test:tester"  # account:user, the form that Swift's own auth wants
SECRET_KEY = "testing"
REGION = "us-east-1"
HOST = "127.0.0.1"
BACKENDS = ("object", "container", "account")
START_S = 30

_SWIFT_CONF = """\
[swift-hash]
swift_hash_path_suffix = tests
[storage-policy:0]
name = default
default = yes
"""

# workers = 0: one process a server, no fork.
_DEFAULT_CONF = """\
[DEFAULT]
swift_dir = {root}
user = {user}
bind_ip = {host}
bind_port = {port}
workers = 0
log_level = WARNING
log_address = {root}/no-syslog
"""

_BACKEND_CONF = """\
devices = {root}/node
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

# Named in the proxy's pipeline, with nothing to set.
_PLAIN_FILTERS = (
    *("catch_errors", "gatekeeper", "healthcheck", "proxy_logging", "listing_formats"),
    *("bulk", "copy", "container_quotas", "slo", "dlo", "symlink"),
)

_PROXY_CONF = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy_logging listing_formats bulk s3api tempauth copy container_quotas slo dlo \
versioned_writes symlink proxy_logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
recheck_account_existence = 1
recheck_container_existence = 1
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret_key} .admin
[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _signal_at_death_of_parent(number: int) -> None:
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG: Linux only


def _killed_with_launcher() -> None:
    _signal_at_death_of_parent(signal.SIGKILL)


def _check_xattrs(folder: Path) -> None:
    """Swift keeps the metadata of objects in extended attributes."""
    probe = folder / ".xattr"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.probe", b"x" * 1024)
    except OSError as error:
        sys.exit(f"{folder}: no user xattrs ({error}); choose a folder on ext4 or xfs, or tmpfs of Linux 6.6")
    finally:
        probe.unlink()


def _check_port(port: int) -> None:
    """Swift itself would try a taken port again for 30 s."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            sys.exit(f"port {port}: {error}")


def _write_configs(root: Path, ports: dict[str, int]) -> None:
    (root / "swift.conf").write_text(_SWIFT_CONF)
    for name, port in ports.items():
        text = _DEFAULT_CONF.format(root=root, user=getpass.getuser(), host=HOST, port=port)
        if name == "proxy":
            text += _PROXY_CONF.format(user=ACCESS_KEY.replace(":", "_"), secret_key=SECRET_KEY, region=REGION)
            text += "".join(f"[filter:{filter_}]\nuse = egg:swift#{filter_}\n" for filter_ in _PLAIN_FILTERS)
        else:
            text += _BACKEND_CONF.format(root=root, name=name)
        (root / f"{name}-server.conf").write_text(text)


def _write_rings(root: Path, ports: dict[str, int]) -> None:
    """Where each backend listens; written at each start, since their ports change."""
    from swift.common.ring import RingBuilder

    for name in BACKENDS:
        builder = RingBuilder(4, 1, 0)  # 16 partitions, one replica
        address = {"ip": HOST, "port": ports[name], "replication_ip": HOST, "replication_port": ports[name]}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": "", **address})
        builder.rebalance()
        builder.get_ring().save(str(root / f"{name}.ring.gz"))


def _start(root: Path, name: str) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).parent / f"swift-{name}-server"
    with (root / "swift.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(program), str(root / f"{name}-server.conf"), "--verbose"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_killed_with_launcher,
        )


def _answers(ports: dict[str, int]) -> bool:
    connection = http.client.HTTPConnection(HOST, ports["proxy"], timeout=1)
    try:
        connection.request("GET", "/healthcheck")
        if connection.getresponse().status != 200:
            return False
        for name in BACKENDS:
            socket.create_connection((HOST, ports[name]), 1).close()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _stop(servers: list[subprocess.Popen[bytes]]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for server in servers:
        server.terminate()
    for server in servers:
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _exit(*_: object) -> NoReturn:
    sys.exit(0)


def serve(root: Path, port: int) -> NoReturn:
    """Run Swift with its data in `root` until a signal; exits 1 with the log's end when it cannot start."""
    device = root / "node" / "d1"
    device.mkdir(parents=True, exist_ok=True)
    _check_xattrs(device)
    _check_port(port)
    ports = {name: free_port() for name in BACKENDS} | {"proxy": port}
    _write_configs(root, ports)
    _write_rings(root, ports)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for name in ports:  # the proxy last
            servers.append(_start(root, name))
        deadline = time.monotonic() + START_S
        while not _answers(ports):
            if time.monotonic() > deadline or any(server.poll() is not None for server in servers):
                sys.exit(f"Swift did not start:\n{(root / 'swift.log').read_text()[-3000:]}")
            time.sleep(0.05)
        print(f"READY http://{HOST}:{port}", flush=True)
        while all(server.poll() is None for server in servers):
            time.sleep(0.2)
        sys.exit(f"a server of Swift ended:\n{(root / 'swift.log').read_text()[-3000:]}")
    finally:
        _stop(servers)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description="Run OpenStack Swift as an S3 server on loopback")
    parser.add_argument("--dir", required=True, type=Path, help="folder for data, configuration and log")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--parent", type=int, help="pid of the process that started this one: stop when it dies")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        _signal_at_death_of_parent(signal.SIGTERM)
        if os.getppid() != arguments.parent:  # it died before the line above
            sys.exit("the parent is gone")
    serve(arguments.dir.resolve(), arguments.port)


if __name__ == "__main__":
    main()
