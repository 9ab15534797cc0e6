"""docker-compose.yaml and the files that it mounts, checked without Docker."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from serve_app.cli.doctor.finding import GIB
from serve_app.cli.doctor.machine import judge_shared_memory
from serve_app.ingress.keys import parse_keys
from serve_app.settings import Limits, Secrets
from serve_app.settings.engines import VLLM_COMMAND
from tests.support.compose import COMPOSE, EXAMPLE, GPU, ROOT, compose_project, interpolated, variables_of
from tests.support.documentation import code_blocks

INSTALL = ROOT / "docs" / "install.md"
VALUES = {name: f"value-of-{name}" for name in variables_of(COMPOSE) | variables_of(GPU)} | {"OCR_ADDRESS": "127.0.0.1"}
WITHOUT_AND_WITH_GPU = pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])


def services(*, gpu: bool) -> dict[str, Any]:
    found: dict[str, Any] = compose_project(VALUES, gpu=gpu)["services"]
    return found


def serve_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    return config


@pytest.mark.parametrize("file", [COMPOSE, GPU], ids=lambda file: file.name)
def test_a_file_meets_the_compose_specification(file: Path) -> None:
    text = interpolated(file, VALUES)
    PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="restrat"):
        PyCompose.from_yaml(text.replace("restart:", "restrat:", 1)).validate()


@WITHOUT_AND_WITH_GPU
def test_services_name_services_volumes_and_secrets_that_exist(gpu: bool) -> None:
    project = compose_project(VALUES, gpu=gpu)
    for name, service in project["services"].items():
        assert service.get("depends_on", {}).keys() <= project["services"].keys(), name
        assert service.get("network_mode", "service:ocr").removeprefix("service:") in project["services"], name
        assert set(service.get("secrets", [])) <= project["secrets"].keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in project["volumes"], volume
    used = {volume.split(":")[0] for service in project["services"].values() for volume in service.get("volumes", [])}
    assert project["volumes"].keys() <= used


def test_every_variable_is_in_the_example_and_the_secrets_are_left_to_fill_in() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.M))
    assert example.keys() == VALUES.keys()
    assert {name for name, value in example.items() if value} == {"OCR_ADDRESS"}
    for name in example.keys() - {"OCR_ADDRESS", "OCR_VLM_API_KEY"}:
        with pytest.raises(KeyError, match=name):
            interpolated(COMPOSE, {**VALUES, name: ""})
    ours = {name for name in services(gpu=True)["ocr"]["environment"] if name.startswith("OCR_")}
    assert ours <= {f"OCR_{name.upper()}" for name in Secrets.model_fields}


def test_the_command_of_the_documentation_fills_in_every_secret(tmp_path: Path) -> None:
    blocks = [code for language, code in code_blocks(INSTALL.read_text()) if language == "bash"]
    (command,) = [line for block in blocks for line in block.splitlines() if line.endswith("> .env)")]
    shutil.copy(EXAMPLE, tmp_path)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    filled = dict(re.findall(r"^(\w+)=(.+)$", (tmp_path / ".env").read_text(), re.M))
    assert filled.keys() == VALUES.keys() and len(set(filled.values())) == len(filled)
    assert compose_project(filled, gpu=True)
    assert parse_keys(filled["OCR_API_KEYS"])


@WITHOUT_AND_WITH_GPU
def test_the_images_are_built_here_or_have_a_version(gpu: bool) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.M)
    for name, service in services(gpu=gpu).items():
        image, _, tag = service["image"].partition(":")
        if "build" in service:
            assert tag == version and service["build"]["target"] in stages, name
            assert image.endswith("-gpu") is gpu
        else:
            assert re.match(r"v?\d", tag), name


@WITHOUT_AND_WITH_GPU
def test_only_the_service_can_listen_to_other_machines(gpu: bool) -> None:
    opened = {port for service in services(gpu=gpu).values() for port in service.get("ports", [])}
    assert opened == {f"127.0.0.1:{port}:{port}" for port in (8081, 9090, 7070, 3000)}
    elsewhere = compose_project({**VALUES, "OCR_ADDRESS": "0.0.0.0"}, gpu=gpu)["services"]
    changed = {port for service in elsewhere.values() for port in service.get("ports", [])}
    assert changed - opened == {"0.0.0.0:8081:8081"}


@WITHOUT_AND_WITH_GPU
def test_the_service_is_started_with_a_config_that_is_that_of_the_repository_but_for_addresses(gpu: bool) -> None:
    ocr = services(gpu=gpu)["ocr"]
    file = "compose/gpu.yaml" if gpu else "compose/cpu.yaml"
    assert ocr["command"] == ["python", "-m", "serve_app", "serve", f"configs/{file}"]
    expected = serve_config("vllm-server.yaml" if gpu else "local.yaml")
    expected["http_options"]["host"] = "0.0.0.0"
    arguments = expected["applications"][0]["args"]
    config = serve_config(file)
    arguments["store"] = store = config["applications"][0]["args"]["store"]
    if gpu:
        arguments["engines"][0]["vlm"]["url"] = "http://vllm:8118/v1"
    assert config == expected
    # The store is the server beside it, which the host reaches at the published port.
    s3 = services(gpu=gpu)["s3"]
    assert (
        store["endpoint_url"] == services(gpu=gpu)["bucket"]["environment"]["AWS_ENDPOINT_URL_S3"] == "http://s3:7070"
    )
    assert store["public_endpoint_url"] == "http://127.0.0.1:7070" and s3["ports"] == ["127.0.0.1:7070:7070"]
    keys = (s3["environment"]["ROOT_ACCESS_KEY"], s3["environment"]["ROOT_SECRET_KEY"])
    assert keys == (ocr["environment"]["OCR_S3_ACCESS_KEY_ID"], ocr["environment"]["OCR_S3_SECRET_ACCESS_KEY"])


def test_requests_in_flight_have_time_to_finish() -> None:
    hours = re.fullmatch(r"(\d+)h", services(gpu=False)["ocr"]["stop_grace_period"])
    assert hours is not None and int(hours[1]) * 3600 >= Limits().document_s


def test_the_inference_server_is_started_as_the_service_would_start_it() -> None:
    vllm = services(gpu=True)["vllm"]
    expected = list(VLLM_COMMAND)
    expected[expected.index("--host") + 1] = "0.0.0.0"
    expected[expected.index("--port") + 1] = "8118"
    assert vllm["entrypoint"] == expected
    assert vllm["environment"]["VLLM_API_KEY"] == services(gpu=True)["ocr"]["environment"]["OCR_VLM_API_KEY"]
    assert vllm["deploy"] == services(gpu=True)["ocr"]["deploy"], "both see the GPU"


def test_prometheus_asks_rays_dashboard_with_rays_token_and_grafana_asks_prometheus() -> None:
    project = compose_project(VALUES, gpu=False)
    (secret,) = project["services"]["prometheus"]["secrets"]
    assert project["secrets"][secret] == {"environment": "RAY_AUTH_TOKEN"}
    assert "RAY_AUTH_TOKEN" in project["services"]["ocr"]["environment"]
    prometheus = yaml.safe_load((ROOT / "configs/compose/prometheus.yaml").read_text())
    (discovery,) = prometheus["scrape_configs"][0]["http_sd_configs"]
    # The dashboard listens on the loopback address, which both containers share.
    assert project["services"]["prometheus"]["network_mode"] == "service:ocr"
    assert discovery["url"] == "http://127.0.0.1:8265/api/prometheus/sd"
    assert discovery["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    (source,) = yaml.safe_load((ROOT / "configs/compose/grafana-datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://ocr:9090"


def test_grafana_and_prometheus_have_every_dashboard_and_the_alerts() -> None:
    project = compose_project(VALUES, gpu=False)["services"]
    mounts = dict(volume.split(":")[:2] for name in ("grafana", "prometheus") for volume in project[name]["volumes"])
    (provider,) = yaml.safe_load((ROOT / "configs/compose/grafana-dashboards.yaml").read_text())["providers"]
    for file in (ROOT / "configs/grafana").iterdir():
        assert mounts[f"./configs/grafana/{file.name}"] == f"{provider['options']['path']}/{file.name}"
    (rules,) = yaml.safe_load((ROOT / "configs/compose/prometheus.yaml").read_text())["rule_files"]
    assert mounts[f"./configs/prometheus/{rules}"] == f"/etc/prometheus/{rules}"


@pytest.mark.parametrize("memory_gib", [4, 16, 64, 1024])
def test_doctor_finds_shared_memory_enough_whatever_memory_the_machine_has(
    memory_gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import utils

    (told,) = re.findall(r"^(\d+)gb$", services(gpu=False)["ocr"]["shm_size"])
    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: int(told) * GIB)
    wanted = utils.resolve_object_store_memory(memory_gib * GIB)
    assert judge_shared_memory(int(told) * GIB, wanted).status == "ok"
    documented = re.findall(r"--shm-size (\w+)", (ROOT / "Dockerfile").read_text() + INSTALL.read_text())
    assert set(documented) == {f"{told}g"}
