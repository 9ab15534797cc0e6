"""The units for machines without containers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_app.cli.doctor.machine import RAY_SOCKET, SOCKET_PATH_BYTES
from serve_app.cli.serve import RAY_ENVIRONMENT
from serve_app.settings import Limits

ROOT = Path(__file__).parents[2]
UNITS = sorted(ROOT.glob("configs/systemd/*.service"))
# Where the units expect the environment that `make` builds.
INSTALLED = "/opt/paddleocr-vl-serve/.venv/bin/"

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.M)


@every_unit
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    def problems(text: str) -> str:
        """What systemd says about it; it takes an unknown key with a warning."""
        copy = tmp_path / unit.name
        copy.write_text(text.replace(INSTALLED, f"{Path(sys.executable).parent}/"))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
        )
        return done.stderr

    text = unit.read_text()
    assert problems(text) == ""
    assert "Unknown key" in problems(text.replace("KillMode", "KillMod"))


@every_unit
def test_a_unit_runs_a_program_of_the_environment_as_a_user_without_rights(unit: Path) -> None:
    (command,) = values(unit, "ExecStart")
    program = command.split()[0]
    assert program.startswith(INSTALLED)
    assert (Path(sys.executable).parent / Path(program).name).is_file()
    assert values(unit, "User") == ["ocr"] and values(unit, "NoNewPrivileges") == ["yes"]
    assert values(unit, "CapabilityBoundingSet") == [""]
    # The only folder that it may write to is its own, which is also where relative paths of the config begin.
    assert values(unit, "ProtectSystem") == ["strict"]
    (folder,) = values(unit, "WorkingDirectory")
    assert folder == f"/var/lib/{values(unit, 'StateDirectory')[0]}"
    assert f"HOME={folder}" in values(unit, "Environment")
    documents = [url.removeprefix("file:///opt/paddleocr-vl-serve/") for url in values(unit, "Documentation")]
    assert documents and all((ROOT / document).is_file() for document in documents)


def test_the_service_has_time_to_finish_its_requests() -> None:
    (unit,) = [unit for unit in UNITS if unit.stem == "paddleocr-vl-serve"]
    assert int(values(unit, "TimeoutStopSec")[0]) > Limits().document_s
    assert values(unit, "KillMode") == ["mixed"], "Ray's processes must not stop before the requests are finished"


def test_a_node_of_a_cluster_has_the_variables_of_make_serve_and_haproxy() -> None:
    (unit,) = [unit for unit in UNITS if unit.stem == "paddleocr-vl-serve-node"]
    variables = dict(pair.split("=") for pair in values(unit, "Environment")[0].split())
    assert variables.items() <= {**RAY_ENVIRONMENT, "RAY_SERVE_ENABLE_HA_PROXY": "1"}.items()
    assert variables["RAY_AUTH_MODE"] == "token"


def test_the_logs_of_a_node_outlive_its_stop(tmp_path: Path) -> None:
    """A private /tmp ends with the service, and Ray's session is there by default."""
    (unit,) = [unit for unit in UNITS if unit.stem == "paddleocr-vl-serve-node"]
    (folder,) = values(unit, "WorkingDirectory")
    assert values(unit, "PrivateTmp") == ["yes"] and f"RAY_TMPDIR={folder}" in values(unit, "Environment")
    assert len(f"{folder}/{RAY_SOCKET}") <= SOCKET_PATH_BYTES
    assert f"{folder}/ray/session_latest" in (ROOT / "docs" / "operate.md").read_text()
    (clean_up,) = values(unit, "ExecStartPre")
    assert clean_up.startswith("-"), "the first start has no sessions yet"
    long_ago = time.time() - 15 * 86_400
    for name, age in (
        ("session_2026-01-01_runs", time.time()),
        ("session_2026-01-01_ended", long_ago),
        ("session_2026-01-02", time.time()),
    ):
        log = tmp_path / "ray" / name / "logs" / "serve" / "replica.log"
        log.parent.mkdir(parents=True)
        log.touch()
        os.utime(log, (age, age))
        if "-01-01" in name:
            os.utime(tmp_path / "ray" / name, (long_ago, long_ago))
    shell = shlex.split(clean_up.removeprefix("-").replace("$$", "$").replace(folder, str(tmp_path)))
    subprocess.run(shell, check=False, timeout=30)
    left = sorted(path.name for path in (tmp_path / "ray").iterdir())
    assert left == ["session_2026-01-01_runs", "session_2026-01-02"], "one that began long ago may have a new log"
