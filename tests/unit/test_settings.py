from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from serve_app.settings import Secrets, Settings, with_environment

ROOT = Path(__file__).parents[2]


def test_the_limits_are_those_that_were_promised() -> None:
    limits = Settings().limits
    promised = {"body_mb": 50, "image_megapixels": 100, "fetch_s": 20, "request_s": 300}
    assert {name: getattr(limits, name) for name in promised} == promised


@pytest.mark.parametrize(
    "settings",
    [
        {"limts": {}},
        {"limits": {"body": 5}},
        {"engines": []},
        {"engines": [{"name": "tesseract"}, {"name": "tesseract"}]},
        {"engines": [{"name": "paddle"}]},
        {"store": {"kind": "s3"}},
        {"allowed_private_networks": ["10.0.0.1/8"]},
        {"limits": {"queue": 0}},
    ],
)
def test_a_mistake_in_the_config_is_an_error_at_deploy_time(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(settings)


def test_half_a_pair_of_s3_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_S3_ACCESS_KEY_ID", "id")
    monkeypatch.delenv("OCR_S3_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(ValidationError, match="both"):
        Secrets.from_environment()


def test_secrets_do_not_show_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_API_KEYS", "alice=s3cret")
    assert "s3cret" not in repr(Secrets.from_environment())


def test_nothing_but_settings_reads_the_environment() -> None:
    """TESSDATA_PREFIX and PADDLE_PDX_CACHE_HOME are the libraries' own, as are those that `doctor` judges; a child gets what its
    parent passes on.
    """
    allowed = {"environment.py", "tessdata.py", "child_process.py", "local_service.py", "fetch.py", "variables.py"}
    readers = {
        file.name
        for file in (ROOT / "serve_app").rglob("*.py")
        if re.search(r"os\.(environ\.get|getenv|environ\[[^]]+](?! = ))", file.read_text())
    }
    assert readers <= allowed


def test_lock_files_are_complete_and_carry_no_address() -> None:
    names = ("serve", "paddleocr-vl", "dev")
    for name in names:
        lock = (ROOT / f"requirements/{name}.txt").read_text()
        assert "://" not in lock and "--index" not in lock and "file:" not in lock
        assert re.search(r"^ray==2\.60\.0$", lock, re.M)
    clients = (ROOT / "requirements/clients.txt").read_text()
    assert "paddleocr-mcp==" in clients and "://" not in clients and "--index" not in clients
    serve, paddle, dev = (
        set(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / f"requirements/{name}.txt").read_text(), re.M)) for name in names
    )
    assert serve and serve < paddle < dev, "the tests run on what is deployed"


def test_the_environment_opens_surfaces_and_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(Settings()).open_surfaces == ()
    monkeypatch.setenv("OCR_PUBLIC_URL", "https://ocr.example.com/read")
    assert with_environment(Settings(ingress_replicas=3)).public_url == "https://ocr.example.com/read"
    monkeypatch.delenv("OCR_PUBLIC_URL")
    monkeypatch.setenv("OCR_OPEN_SURFACES", "paddlex, ")
    assert with_environment(Settings(ingress_replicas=3)) == Settings(ingress_replicas=3, open_surfaces=("paddlex",))
    monkeypatch.setenv("OCR_OPEN_SURFACES", "everything")
    with pytest.raises(ValidationError, match="open_surfaces"):
        with_environment(Settings())
