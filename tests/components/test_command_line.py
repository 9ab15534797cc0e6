"""The command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from serve_app.cli import doctor
from serve_app.cli import main as command_line
from serve_app.cli import serve as serve_command
from serve_app.cli.doctor import check_machine
from serve_app.settings import Settings

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
    yield
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


def test_doctor_checks_each_need_and_says_how_to_meet_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tesseract = {"name": "tesseract", "languages": ["eng"]}
    assert check_machine(settings(tesseract), config="c.yaml") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"ok"}

    monkeypatch.setattr(doctor, "missing_fonts", lambda: {"Carlito": "fonts-crosextra-carlito"})
    (tmp_path / "eng.traineddata").touch()
    assert check_machine(settings({**tesseract, "tessdata": str(tmp_path)}), config="c.yaml") == 1
    fonts, languages, _ = capsys.readouterr().out.splitlines()
    assert fonts.startswith("missing") and fonts.endswith("Carlito; install fonts-crosextra-carlito")
    assert languages.startswith("missing") and languages.endswith("install tesseract-ocr-osd")
