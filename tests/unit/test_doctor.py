"""What the command `doctor` finds."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.doctor import engines
from serve_app.cli.doctor.configuration import check_config, check_secrets
from serve_app.cli.doctor.engines import check_fonts, check_languages, engine_checks, judge_gpus
from serve_app.cli.doctor.examination import within
from serve_app.cli.doctor.finding import Check, Code, Finding, ok
from serve_app.cli.doctor.machine import check_disks, check_folder, check_ports, judge_shared_memory
from serve_app.cli.doctor.ray_cluster import check_token, judge_version
from serve_app.cli.doctor.store import check_store, compare_clocks
from serve_app.runtime.plain_url import plain_url
from serve_app.settings import DummySettings, FolderStoreSettings, Secrets, Settings, TesseractSettings

GIB = 2**30
OPERATE = Path(__file__).parents[2] / "docs" / "operate.md"


def codes(findings: Any) -> list[str | None]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(("cpu_nodes", "code"), [("cpu_work", "warning"), (None, "problem")])
def test_a_node_without_gpus_of_a_cluster_that_has_others_is_well(
    cpu_nodes: str | None, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    server = {"backend": "vllm-server", "url": "http://127.0.0.1:9"}
    vl = {"name": "paddleocr-vl", "device": "gpu", "vlm": server, "fallback": "tesseract"}
    settings = Settings.model_validate({"engines": [vl, {"name": "tesseract"}], "cpu_nodes": cpu_nodes})
    raw = {"proxy_location": "EveryNode"}
    checks = {check.name: check for check in engine_checks("config.yaml", raw, settings, Secrets())}
    assert ("models" in checks, "inference server" in checks) == ((False, False) if cpu_nodes else (True, True))
    (finding,) = checks["GPU"].find()
    assert (finding.status, finding.code) == (code, Code.GPU_MISSING)
    assert "languages" in checks


def test_a_check_that_hangs_ends_as_a_line_after_what_it_has_found() -> None:
    release = threading.Event()

    def hang() -> Iterator[Finding]:
        yield ok("disk", "it is there")
        release.wait()

    try:
        found = within(Check("disk", hang), 0.05)
        assert codes(found) == [None, Code.CHECK_TIMED_OUT] and "hangs" in found[1].message
    finally:
        release.set()


def test_a_check_that_fails_is_a_line_without_the_text_of_its_error() -> None:
    def fail() -> Iterator[Finding]:
        yield ok("store", "fine so far")
        raise ValueError("http://user:PASSWORD@host")

    found = within(Check("store", fail), 10)
    assert codes(found) == [None, Code.CHECK_FAILED]
    assert "ValueError in test_doctor.py:" in found[1].message and "PASSWORD" not in found[1].message


def test_an_address_is_told_without_what_may_be_secret() -> None:
    assert plain_url("https://me:PASSWORD@s3.example.com:9000/v1?token=SECRET#x") == "https://s3.example.com:9000/v1"
    assert plain_url("http://[::1]:8118/v1") == "http://[::1]:8118/v1"
    assert plain_url("http://PASSWORD@host:not-a-port") == "an address that is not valid"


CONFIG: dict[str, Any] = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1", "port": 8081},
    "applications": [{"name": "ocr", "import_path": "serve_app.app:build", "args": {}}],
}


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({}, None, "is valid"),
        ({"proxy_locations": "HeadOnly"}, Code.CONFIG_NAME_UNKNOWN, "ignores proxy_locations"),
        ({"proxy_location": "Everywhere"}, Code.CONFIG_INVALID, "proxy_location"),
        ({"http_options": {"port": "x"}}, Code.CONFIG_INVALID, "http_options.port"),
        (
            {"applications": [CONFIG["applications"][0] | {"deployments": [{"name": "Recognizer-tesseract"}]}]},
            None,
            "is valid",
        ),
        (
            {"applications": [CONFIG["applications"][0] | {"deployments": [{"name": "Recogniser"}]}]},
            Code.CONFIG_NAME_UNKNOWN,
            "no deployment Recogniser",
        ),
    ],
)
def test_what_is_serves_own_in_a_config_is_checked(changes: dict[str, Any], code: Code | None, told: str) -> None:
    (finding,) = check_config("c.yaml", CONFIG | changes, Settings())
    assert (finding.code, told in finding.message) == (code, True), finding.message


def test_values_of_a_runtime_env_are_not_told() -> None:
    application = CONFIG["applications"][0] | {
        "runtime_env": {"env_vars": {"A": ["PASSWORD"]}, "working_dir": "PASSWORD"}
    }
    (finding,) = check_config("c.yaml", CONFIG | {"applications": [application]}, Settings())
    assert finding.code is Code.CONFIG_INVALID and "PASSWORD" not in finding.message


@pytest.mark.parametrize(
    ("environment", "proxies", "code", "told"),
    [
        ({"OCR_API_KEYS": "alice=PASSWORD,bob=PASSWORD2"}, "EveryNode", None, "alice, bob"),
        ({"OCR_API_KEYS": "alice=PASSWORD,alice=PASSWORD2"}, "EveryNode", Code.SECRETS_INVALID, "two keys"),
        ({"OCR_S3_ACCESS_KEY_ID": "PASSWORD"}, "HeadOnly", Code.SECRETS_INVALID, "OCR_S3_SECRET_ACCESS_KEY"),
        ({}, "EveryNode", Code.KEYS_NOT_SHARED, "on every node"),
        ({"OCR_VLM_API_KEY": "PASSWORD"}, "HeadOnly", None, "will be made in"),
    ],
)
def test_secrets_are_checked_and_not_told(
    environment: dict[str, str],
    proxies: str,
    code: Code | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in Secrets.model_fields:
        monkeypatch.delenv(f"OCR_{name.upper()}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "api-key"
    (finding,) = check_secrets(CONFIG | {"proxy_location": proxies}, Settings(api_key_file=str(file)))
    assert (finding.code, told in finding.message) == (code, True), finding.message
    assert "PASSWORD" not in finding.message and not file.exists()


def test_an_empty_file_of_the_key_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCR_API_KEYS", raising=False)
    file = tmp_path / "api-key"
    file.write_text("\n")
    assert codes(check_secrets(CONFIG, Settings(api_key_file=str(file)))) == [Code.SECRETS_INVALID]


def test_a_folder_of_results_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    settings = FolderStoreSettings(path=str(folder / "below"))
    assert codes(check_store(settings, Secrets())) == [None]
    assert list(tmp_path.iterdir()) == []
    (folder / "below").mkdir(parents=True)
    assert codes(check_store(settings, Secrets())) == [None]
    assert list((folder / "below").iterdir()) == []
    shutil.rmtree(folder)
    folder.touch()
    (finding,) = check_store(settings, Secrets())
    assert finding.code is Code.FOLDER_NOT_WRITABLE and "Not a directory" in finding.message


@pytest.mark.parametrize(
    ("off_s", "status"),
    [(0, "ok"), (60, "ok"), (-60, "ok"), (61, "warning"), (-899, "warning"), (900, "problem"), (-4000, "problem")],
)
def test_clocks_are_compared(off_s: int, status: str) -> None:
    store = datetime(2026, 1, 1, tzinfo=UTC)
    finding = compare_clocks(store, store + timedelta(seconds=off_s))
    assert finding.status == status
    if status != "ok":
        assert f"{abs(off_s)} s {'ahead of' if off_s > 0 else 'behind'} the store" in finding.message


def test_a_store_that_does_not_tell_its_time_is_a_warning() -> None:
    assert compare_clocks(None, datetime.now(UTC)).code is Code.CLOCK_UNKNOWN


def test_the_shared_memory_of_docker_is_too_small() -> None:
    assert judge_shared_memory(8 * GIB, 8 * GIB).status == "ok"
    finding = judge_shared_memory(64 * 2**20, 6 * GIB)
    assert finding.status == "warning"
    assert "64 MiB" in finding.message and "--shm-size=7g" in finding.message


@pytest.mark.parametrize(
    ("listing", "visible", "gpus", "replicas", "code"),
    [
        ("NVIDIA A10, 550.54.14\n", None, 1, 1, None),
        ("NVIDIA A10, 525.60.13\n", None, 0.2, 5, None),
        ("NVIDIA A10, 470.82.01\n", None, 1, 1, Code.GPU_DRIVER_OLD),
        ("NVIDIA A10, 550.54.14\n", None, 1, 2, Code.GPU_TOO_FEW),
        ("NVIDIA A10, 550.54.14\n", None, 2, 1, Code.GPU_TOO_FEW),
        ("NVIDIA A10, 550.54.14\nNVIDIA A10, 550.54.14\n", "0", 1, 2, Code.GPU_TOO_FEW),
        ("NVIDIA A10, 550.54.14\n", "", 1, 1, Code.GPU_TOO_FEW),
        ("No devices were found\n", None, 1, 1, Code.GPU_TOO_FEW),
    ],
)
def test_gpus_are_compared_with_what_the_engine_needs(
    listing: str, visible: str | None, gpus: float, replicas: int, code: Code | None
) -> None:
    assert codes(judge_gpus(DummySettings(num_gpus=gpus, replicas=replicas), listing, visible)) == [code]


def test_another_version_of_ray_is_a_problem() -> None:
    requirements = ["fastapi>=0.115", "ray[serve]==2.60.0"]
    assert judge_version("2.60.0", requirements).status == "ok"
    assert judge_version("2.59.1", requirements).code is Code.RAY_VERSION_WRONG


def test_the_token_of_ray_is_looked_for_and_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_token(cluster=False).status == "ok"
    assert check_token(cluster=True).code is Code.RAY_TOKEN_MISSING
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("PASSWORD")
    found = check_token(cluster=True)
    assert found.status == "ok" and "PASSWORD" not in found.message
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert check_token(cluster=False).status == "problem"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "PASSWORD")
    found = check_token(cluster=True)
    assert found.status == "ok" and "PASSWORD" not in found.message
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert check_token(cluster=False).code is Code.RAY_TOKEN_OFF


def test_a_taken_port_is_a_problem() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        options = {"host": "127.0.0.1", "port": other.getsockname()[1]}
        assert codes(check_ports(options)) == [Code.PORT_TAKEN]
    assert codes(check_ports(options)) == [None]
    assert codes(check_ports({"host": "192.0.2.1", "port": 8081})) == [Code.PORT_NOT_ALLOWED]


def test_a_folder_needs_room_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "temp" / "below"
    free = shutil.disk_usage(tmp_path).free
    assert check_folder("disk", folder, least=0, wanted=1).status == "ok"
    assert check_folder("disk", folder, least=0, wanted=2 * free).status == "warning"
    assert check_folder("disk", folder, least=2 * free, wanted=2 * free).status == "problem"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "temp").touch()
    assert check_folder("disk", folder, least=0, wanted=1).code is Code.FOLDER_NOT_WRITABLE


def test_the_folders_of_the_service_and_of_ray_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"temp_dir": str(tmp_path / "t"), "spool_dir": str(tmp_path / "s")}
    settings = Settings.model_validate({**folders, "store": {"kind": "folder", "path": str(tmp_path / "o")}})
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'long' * 20}")
    found = list(check_disks(settings))
    assert [each.check for each in found] == [
        "disk of temp_dir",
        "disk of spool_dir",
        "disk of the store",
        "disk of Ray",
    ]
    assert found[3].code is Code.PATH_TOO_LONG


def test_fonts_and_language_data_that_are_missing_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "missing_fonts", lambda: {"Carlito": "fonts-crosextra-carlito"})
    (fonts,) = check_fonts()
    assert fonts.code is Code.FONTS_MISSING and fonts.message.endswith("Carlito; install fonts-crosextra-carlito")
    tesseract = TesseractSettings(languages=("eng",), tessdata=str(tmp_path))
    (languages,) = check_languages(tesseract)
    assert languages.status == "problem" and "tesseract-ocr-eng" in languages.message
    (tmp_path / "eng.traineddata").touch()
    (languages,) = check_languages(tesseract)
    assert languages.status == "warning" and languages.message.endswith("install tesseract-ocr-osd")
    (tmp_path / "osd.traineddata").touch()
    assert codes(check_languages(tesseract)) == [None]


def test_every_code_is_documented() -> None:
    section = OPERATE.read_text().partition("## Doctor\n")[2].partition("\n## ")[0]
    assert section
    assert [code for code in Code if f"`{code}`" not in section] == []
