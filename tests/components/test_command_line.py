"""The command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from serve_app.cli import main as command_line
from serve_app.cli import serve as serve_command
from serve_app.cli.doctor import engines
from serve_app.cli.doctor.examination import examine
from serve_app.settings import PaddleOcrVlSettings, Secrets, Settings, VlmServerSettings
from tests.support.documentation import ROOT, code_blocks
from tests.support.http_server import http_server
from tests.support.swift import free_port

RAW = {"http_options": {"host": "127.0.0.1", "port": 0}}
STORE = {"kind": "folder", "path": "output"}
KEYS = {"local": "k"}


def settings(*engines: dict[str, Any]) -> Settings:
    return Settings.model_validate({"engines": list(engines or [{"name": "dummy"}]), "store": STORE})


def test_ray_is_not_imported_before_a_command_runs() -> None:
    """Ray reads its settings when it is imported, and `serve` makes them: a Ray without its token does not start."""
    script = (
        "import sys, serve_app.cli.main; print(sorted(name for name in sys.modules if name.split('.')[0] == 'ray'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_call_after_the_end_starts_no_second_ray() -> None:
    """Threads of Serve's handles outlive Ray for a moment, and a call to Ray that is not running would start one."""
    script = "import ray\ntry: ray.put(1)\nexcept Exception as error: print(type(error).__name__)\nprint(ray.is_initialized())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **serve_command.RAY_ENVIRONMENT, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["RaySystemError", "False"]


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "8081.0"])
def test_a_port_that_is_none_is_refused_in_a_clear_line(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve_app", "serve", "configs/local.yaml", f"--port={port}"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert f"argument --port: {port!r} is not a number between 1 and 65535" in capsys.readouterr().err


def test_a_language_without_data_is_one_line_with_its_package_before_anything_starts(tmp_path: Path) -> None:
    for name in ("rus", "eng"):
        (tmp_path / f"{name}.traineddata").touch()
    tesseract = {"name": "tesseract", "languages": ["rus", "chi_sim", "eng"], "tessdata": str(tmp_path)}
    with pytest.raises(SystemExit) as stopped:
        serve_command.run(RAW, settings(tesseract), KEYS)
    message = str(stopped.value)
    assert "'chi_sim'" in message and "tesseract-ocr-chi-sim" in message and "\n" not in message


def test_nodes_that_this_machine_is_not_are_one_clear_sentence() -> None:
    elsewhere = Settings.model_validate({"engines": [{"name": "dummy"}], "cpu_nodes": "cpu_work"})
    with pytest.raises(SystemExit, match=r"resource 'cpu_work' \(cpu_nodes\), which this machine does not have"):
        serve_command._require_room(elsewhere, {"CPU": 2})
    serve_command._require_room(elsewhere, {"CPU": 2, "cpu_work": 1})


@pytest.mark.parametrize(
    ("failed", "ready"),
    [
        ({}, True),
        ({"tesseract": "no data"}, True),
        ({"tesseract": "no data", "dummy": "no reason"}, False),
    ],
)
def test_it_is_ready_only_if_an_engine_is(failed: dict[str, str], ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_API_KEYS", "k")
    both = settings({"name": "tesseract"}, {"name": "dummy"})
    banner = serve_command._banner("http://127.0.0.1:1", KEYS, both, "127.0.0.1:2", failed)
    assert ("is ready" in banner) is ready
    for engine, reason in failed.items():
        assert f"The engine {engine} could not be loaded: {reason}." in banner


def test_the_curl_line_of_a_newcomer_reads_the_key_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCR_API_KEYS", raising=False)
    file = tmp_path / "my keys" / "api-key"
    own = Settings.model_validate({"engines": [{"name": "dummy"}], "api_key_file": str(file)})
    banner = serve_command._banner("http://127.0.0.1:1", {"local": "the-key"}, own, "127.0.0.1:2", {})
    assert banner.count("the-key") == 1, "it is shown, and not pasted into the history of the shell"
    assert f"Bearer $(cat '{file}')" in banner


class Handles:
    """Stands for `serve.get_deployment_handle`: a method called on a handle gives what is next of its deployment."""

    def __init__(self, **responses: list[Any]) -> None:
        self.responses = responses

    def __call__(self, deployment: str, application: str) -> Any:
        responses = self.responses[deployment.replace("-", "_")]

        def remote() -> Any:
            response = responses.pop(0)

            def result(timeout_s: float) -> Any:
                if isinstance(response, Exception):
                    raise response
                return response

            return SimpleNamespace(result=result)

        def broadcast(method: str) -> Any:
            return SimpleNamespace(results=remote().result)

        return SimpleNamespace(broadcast=broadcast, drain=SimpleNamespace(remote=remote))


def test_the_engines_that_could_not_be_loaded_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = Handles(
        Recognizer_a=[[SimpleNamespace(reason=None), SimpleNamespace(reason="no models")]],
        Recognizer_b=[[SimpleNamespace(reason="no models")] * 2],
        Recognizer_c=[TimeoutError()],
        Recognizer_d=[DeploymentUnavailableError(DeploymentID("Recognizer-d"))],
    )
    monkeypatch.setattr(serve, "get_deployment_handle", handles)
    assert serve_command._failed_engines("ocr", ["a", "b", "c", "d"]) == {"b": "no models"}


@pytest.mark.parametrize("update", ["none", "refused"])
def test_the_requests_in_flight_are_finished_also_after_an_update_that_was_refused(
    update: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingress = SimpleNamespace(replica_states={"RUNNING": 1, "STARTING": 1})
    deployments = {"Ingress": ingress} if update == "none" else {}  # Serve forgets them then
    status = SimpleNamespace(applications={"ocr": SimpleNamespace(deployments=deployments)})
    handles = Handles(Ingress=[("replica", 2), ("replica", 1), ("replica", 0)])
    monkeypatch.setattr(serve, "get_deployment_handle", handles)
    monkeypatch.setattr(serve, "status", lambda: status)
    monkeypatch.setattr(serve_command, "DRAIN_POLL_S", 0)
    serve_command._drain("ocr", settings())
    assert handles.responses["Ingress"] == []
    assert capsys.readouterr().out == "2 request(s) in flight...\n1 request(s) in flight...\n"


@pytest.fixture
def signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_start_even_if_a_library_swallows_its_exception(signum: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    stop = serve_command._StopSignal()
    stop.check()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signum)
    with pytest.raises(KeyboardInterrupt):
        stop.check()
    stop.wait()  # it has come already


def test_a_signal_while_python_frees_an_object_prints_no_traceback_and_is_noted() -> None:
    code = """if True:
        import signal
        from serve_app.cli.serve import _StopSignal

        class Freed:
            def __init__(self, last_act):
                self.last_act = last_act

            def __del__(self):
                self.last_act()

        stop = _StopSignal()
        Freed(lambda: 1 / 0)
        Freed(lambda: signal.raise_signal(signal.SIGINT))
        try:
            stop.check()
        except KeyboardInterrupt:
            print("stopped")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "stopped\n"
    assert done.stderr.count("Traceback") == 1 and "ZeroDivisionError" in done.stderr, (
        "of anything else Python still tells"
    )


@pytest.mark.usefixtures("signals")
def test_only_a_service_that_has_started_has_requests_to_finish(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(serve, "delete", lambda name: done.append(f"delete {name}"))
    monkeypatch.setattr(serve_command, "_drain", lambda name, settings: done.append(f"drain {name}"))
    serve_command._stop(None, settings())
    assert (done, capsys.readouterr().out) == (["shutdown"], "")
    serve_command._stop("ocr", settings())
    assert done[1:] == ["drain ocr", "delete ocr", "shutdown"]
    assert "finishing the requests in flight" in capsys.readouterr().out


def doctor(config: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve_app", "doctor", str(config), *options],
        env={**os.environ, "HOME": str(config.parent), **environment},
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_doctor_says_what_is_wrong_and_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    address = f"127.0.0.1:{free_port()}"
    vlm = {"backend": "vllm-server", "url": f"http://user:PASSWORD@{address}/v1"}
    reader = {"name": "paddleocr-vl", "device": "cpu", "vlm": vlm}
    application = {"name": "ocr", "import_path": "serve_app.app:build", "args": {"engines": [reader]}}
    raw = {"proxy_location": "HeadOnly", "http_options": {"port": free_port()}, "applications": [application]}
    config.write_text(yaml.safe_dump(raw))
    secrets = {"OCR_API_KEYS": "alice=API-KEY", "OCR_VLM_API_KEY": "VLM-KEY", "RAY_AUTH_TOKEN": "RAY-TOKEN"}
    lines, data = doctor(config, **secrets), doctor(config, "--json", **secrets)
    assert (lines.returncode, data.returncode, lines.stderr, data.stderr) == (1, 1, "", "")
    assert not [secret for secret in ("PASSWORD", "-KEY", "TOKEN\n") if secret in lines.stdout + data.stdout]
    report = json.loads(data.stdout)
    assert (report["config"], report["status"]) == (str(config), "problem")
    (server,) = [check for check in report["checks"] if check["check"] == "inference server"]
    assert (server["status"], server["code"]) == ("problem", "secrets_invalid")
    assert server["message"].startswith(f"http://{address}/v1 has a user in its `url`")
    told = [f"{check['status']:8} {check['check']}" for check in report["checks"]]
    assert [line.partition(":")[0] for line in lines.stdout.splitlines()] == told
    assert {"ok       secrets", "ok       configuration"} < set(told)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["serve.yaml"]


def test_doctor_finds_an_inference_server_and_waits_only_a_moment_for_one_that_hangs() -> None:
    def found(url: str, **more: Any) -> tuple[str, str]:
        vlm = {"backend": "vllm-server", "url": url, **more}
        engine = settings({"name": "paddleocr-vl", "vlm": vlm}).engines[0]
        assert isinstance(engine, PaddleOcrVlSettings) and isinstance(engine.vlm, VlmServerSettings)
        (finding,) = engines.check_server(engine.vlm, Secrets())
        return finding.status, finding.message

    with http_server({"/v1/models": b'{"data": [{"id": "some-vlm"}]}'}) as address:
        assert found(f"{address}/v1")[0] == "ok"
        status, message = found(f"{address}/v1", model="another")
        assert status == "problem" and "it does not serve another, but some-vlm" in message
    port = free_port()
    status, message = found(f"http://user:PASSWORD@127.0.0.1:{port}/v1")
    assert status == "problem" and message.startswith(f"http://127.0.0.1:{port}/v1: it cannot be connected to")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, message = found(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", connect_s=0.2)
        assert status == "problem" and "it does not respond within 0.2 s" in message


def test_the_sample_of_doctor_in_the_documentation_has_the_checks_of_the_config_of_one_machine() -> None:
    section = (ROOT / "docs" / "operate.md").read_text().partition("## Doctor\n")[2].partition("\n## ")[0]
    (sample,) = [content for language, content in code_blocks(section) if language == "text"]
    shown = [tuple(line.split(":")[0].split(maxsplit=1)) for line in sample.splitlines()]
    found = list(examine(str(ROOT / "configs" / "local.yaml")))
    assert [check for _, check in shown] == [finding.check for finding in found]
    assert {status for status, _ in shown} == {"ok", "warning", "problem"}


@pytest.mark.parametrize("command", ["serve", "key", "doctor"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("applications: [", "line 1"),
        ("\xff", "not YAML"),
        ("[]", "no applications"),
        ("applications: {}\nhttp_options: 3", "http_options is not a mapping"),
        ("applications: [3]", "not a list of mappings"),
        ("applications: []", "exactly one application; it has 0"),
    ],
)
def test_a_config_that_is_none_is_one_clear_line(
    command: str, text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(text, "latin-1")
    if command == "doctor":
        (finding,) = examine(str(config))
        assert finding.code == "config_invalid" and problem in finding.message and "\n" not in finding.message
        return
    monkeypatch.setattr(sys, "argv", ["serve_app", command, str(config)])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert problem in str(stopped.value) and "\n" not in str(stopped.value)
