"""`make serve` as a newcomer runs it: its own Ray, a key, a curl line that works, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.job_client import assert_whole, book, submit, wait_for_end, wait_until_done
from tests.support.pdfs import pages_pdf
from tests.support.processes import kill_tree
from tests.support.ray_environment import WITHOUT_PANDAS
from tests.support.swift import free_port
from tests.support.tiny_paddleocr_vl import TinyModels

ROOT = Path(__file__).parents[2]
# Far more than are in flight at once, so that the later ones are still to be asked for when it is stopped; and more
# than are read in the second before that.
BOOK_PAGES = 100
PAGES = 30  # of a job
START_S = 120  # on a machine with other work
# Makes Ray count a GPU that is not there; the models run on the CPU. PaddleOCR-VL needs pandas.
ONE_GPU = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2, "GPU": 1}', "PYTHONPATH": ""}


class Running:
    """`python -m serve_app serve`, which is what `make serve` runs, in a process group of its own as in a shell.

    `in_background`: as a script starts it with `&`, which makes it ignore SIGINT.
    """

    def __init__(self, home: Path, port: int, in_background: bool = False, /, **environment: str) -> None:
        shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if in_background else []
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_"))}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*shell, sys.executable, "-m", "serve_app", "serve", str(home / "config.yaml"), "--port", str(port)],
            cwd=ROOT,
            env={**clean, "HOME": str(home), "RAY_TMPDIR": str(home), **WITHOUT_PANDAS, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def ctrl_c(self) -> None:
        self.stop(signal.SIGINT)

    def stop(self, signum: signal.Signals) -> None:
        os.killpg(self.process.pid, signum)
        self.process.wait(60)
        self._reader.join(10)


@pytest.fixture
def home(short_tmp_path: Path) -> Path:
    config = (ROOT / "configs/local.yaml").read_text()
    assert "path: output" in config
    (short_tmp_path / "config.yaml").write_text(config.replace("path: output", f"path: {short_tmp_path}/output"))
    return short_tmp_path


@contextmanager
def serving(home: Path, port: int, in_background: bool = False, /, **environment: str) -> Iterator[Running]:
    running = Running(home, port, in_background, **environment)
    try:
        running.wait_for("Press Ctrl-C to stop.")
        yield running
    finally:
        try:
            if running.process.poll() is None:
                running.ctrl_c()
        finally:
            kill_tree(running.process)  # of a service that does not stop


def processes_below(folder: Path) -> list[psutil.Process]:
    """Processes that work with files below the folder: Ray's are started with its temporary folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
        or (process.info["environ"] or {}).get("HOME") == str(folder)
    ]


def write_gpu_config(home: Path, models: TinyModels | None = None, dummy: dict[str, Any] | None = None) -> None:
    """configs/gpu.yaml, with these models on the CPU, or with models that are not there, and with a dummy engine."""
    config = yaml.safe_load((ROOT / "configs/gpu.yaml").read_text())
    arguments = config["applications"][0]["args"]
    arguments["store"]["path"] = str(home / "output")
    engine = arguments["engines"][0]
    engine["device"] = "cpu"
    if models is None:
        engine["download"] = False
    else:
        engine["layout_model_dir"] = str(models.layout)
        engine["vlm"]["model_dir"] = str(models.vlm)
    arguments["engines"] += [dummy] if dummy is not None else []
    arguments["log_level"] = "debug"  # a line for each page of a job
    (home / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_newcomer_starts_it_pastes_the_curl_line_and_stops_it(home: Path, russian_text: str) -> None:
    port = free_port()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with serving(home, port) as running:
        first_output = running.output
        assert f"http://127.0.0.1:{port}" in first_output
        (line,) = [line for line in first_output.splitlines() if line.strip().startswith("curl ")]
        answer = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
        assert answer.stdout.split() == russian_text.split()
        key = re.search(r"API key +(\S+)", first_output)
        assert key is not None and key[1] not in line, "it would be in the history of the shell"
        assert "ConsistentHashRouter" not in first_output
        file = home / ".config/paddleocr-vl-serve/api-key"
        assert file.read_text().strip() == key[1]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        health = httpx.get(f"http://127.0.0.1:{port}/health", headers={"X-API-Key": key[1]}).json()
        assert (health["status"], health["paddleocr"]) == ("healthy", "initialized")
        dashboard = re.search(r"Dashboard +(\S+)", first_output)
        assert dashboard is not None and httpx.get(dashboard[1]).status_code == 200
        assert len(list((home / "output").rglob("result.json"))) == 1
        assert_signed_file(f"http://127.0.0.1:{port}", key[1])
        with ThreadPoolExecutor() as client:
            book = pages_pdf([b""] * BOOK_PAGES, size=(200, 200))
            asked = client.submit(
                httpx.post,
                f"http://127.0.0.1:{port}/ocr",
                headers={"X-API-Key": key[1]},
                files={"file": book},
                timeout=60,
            )
            time.sleep(1)
            assert not asked.done()
            running.ctrl_c()
            document = asked.result()
        assert document.status_code == 200 and len(document.json()["pages"]) == BOOK_PAGES, document.text[:300]
        assert document.json()["status"] == "done" and "1 request(s) in flight" in running.output
    assert running.process.returncode == 0
    for word in ("warning", "traceback", "error"):
        assert word not in running.output.lower(), running.output
    # The kernel ends a decoder after its replica is gone, and takes a moment for it.
    _, left = psutil.wait_procs(processes_below(home), timeout=5)
    assert left == []
    assert bystander.poll() is None, "nothing else of the machine is stopped"
    bystander.kill()


def assert_signed_file(address: str, key: str) -> None:
    """A picture of a job of PaddleOCR's API is at a link without a key. The store is a folder, so the service sends it."""
    with httpx.Client(base_url=address, headers={"X-API-Key": key}, timeout=60) as client:
        with (ROOT / "samples/page-ru.png").open("rb") as page:
            fields = {"model": "PP-OCRv5", "optionalPayload": '{"visualize": true}'}
            job_id = client.post("/api/v2/ocr/jobs", data=fields, files={"file": page}).json()["data"]["jobId"]
        while (job := client.get(f"/api/v2/ocr/jobs/{job_id}").json()["data"])["state"] in ("pending", "running"):
            pass  # each call waits a while for the end
    (line,) = httpx.get(job["resultUrl"]["jsonUrl"]).text.splitlines()
    picture = json.loads(line)["result"]["ocrResults"][0]["ocrImage"]
    assert picture.startswith(f"{address}/files/") and httpx.get(picture).content.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        ("Starting", signal.SIGINT),  # its first line
        ("gcs_server", signal.SIGINT),  # a process of Ray
        ("gcs_server", signal.SIGTERM),
        ("ray::ServeReplica", signal.SIGINT),  # the first replica
    ],
)
def test_a_signal_during_the_start_ends_it_also_in_the_background_of_a_script(
    home: Path, moment: str, signum: signal.Signals
) -> None:
    """`moment` is what is there when the signal comes: a line that is printed, or the name of a process."""
    # Ray would wait 30 s for a GCS that has ended by the signal, too.
    with in_background(home, RAY_gcs_server_port_wait_time_s="5") as running:
        deadline = time.monotonic() + START_S
        while moment not in running.output + commands_of(running.process):
            assert running.process.poll() is None and time.monotonic() < deadline, running.output
            # A look at all processes costs 20 ms. The GCS comes early.
            time.sleep(0.02 if moment == "gcs_server" else 0.2)
        running.stop(signum)
    assert "Press Ctrl-C to stop" not in running.output, "it was to come before the start was over"
    # For a moment within ray.init(), Ray's own handler ends the process, with the number of SIGTERM.
    assert running.process.returncode in {0, 130, signum}, running.output
    assert "Traceback" not in running.output
    _, left = psutil.wait_procs(processes_below(home), timeout=5)
    assert left == []


@contextmanager
def in_background(home: Path, /, **environment: str) -> Iterator[Running]:
    running = Running(home, free_port(), True, **environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            kill_tree(running.process)


def commands_of(process: subprocess.Popen[Any]) -> str:
    """The command lines of all processes below a process."""
    lines = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            lines += child.cmdline()
    return "\n".join(lines)


def read_sample(client: httpx.Client) -> dict[str, Any]:
    with (ROOT / "samples/page-ru.png").open("rb") as page:
        document: dict[str, Any] = client.post("/ocr", files={"file": page}).json()
    return document


def wait_until_loaded(client: httpx.Client, running: Running) -> None:
    """An engine that loads quickly is waited for at the start; /health has its state within seconds."""
    deadline = time.monotonic() + (60 if "Still loading: paddleocr-vl." in running.output else 10)
    while client.get("/health").json()["paddleocr"] != "initialized":
        assert time.monotonic() < deadline, running.output
        time.sleep(0.2)


def test_without_models_it_answers_and_when_all_is_killed_jobs_go_on_with_models_in_the_background(
    home: Path, tiny_models: TinyModels
) -> None:
    """First with keys of the environment, which are used and never shown; then with the one in its file."""
    port = free_port()
    dummy = {"name": "dummy", "replicas": 1, "page_s": 0.15, "max_batch": 1, "text": "Привет"}
    write_gpu_config(home, dummy=dummy)
    secret = "s3cret-of-this-machine"
    environment = {
        "OCR_API_KEYS": f"alice=s3cret-of-alice,local={secret}",
        "PADDLE_PDX_CACHE_HOME": str(home / "no-models"),
        **ONE_GPU,
    }
    address, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {secret}"}

    def stored_pages() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (home / "output").rglob(f"{job_id}/page-results/*.json")}

    with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
        with serving(home, port, **environment) as running:
            other = httpx.get(f"{address}/", headers={"Authorization": "Bearer s3cret-of-alice"})
            assert other.status_code == client.get("/").status_code == 200
            assert client.post("/ocr", json={}).status_code == 422
            answer = read_sample(client)
            health = client.get("/health").json()
            job_id = submit(client, book(PAGES), engine="dummy")
            in_line = submit(client, book(3), engine="dummy")
            before = wait_until_done(client, job_id, 10)
            kill_tree(running.process)
        assert (answer["engine"]["name"], answer["degraded"]) == ("tesseract", True)
        assert health["status"] == "degraded" and "models pull" in health["engines"]["paddleocr-vl"]["reason"]
        assert 10 <= before["progress"]["done"] < PAGES
        stored = stored_pages()
        assert len(stored) >= 10, "what counts as done is stored"
        (home / ".config/paddleocr-vl-serve").mkdir(parents=True)  # not there yet
        (home / ".config/paddleocr-vl-serve/api-key").write_text(secret)
        (home / ".config/paddleocr-vl-serve/api-key").chmod(0o600)
        write_gpu_config(home, tiny_models, dummy)
        # At once, on the same port; in the background of a script.
        with serving(home, port, True, **ONE_GPU) as again:
            assert secret in again.output
            assert_whole(client, wait_for_end(client, job_id), PAGES)
            assert_whole(client, wait_for_end(client, in_line), 3)
            wait_until_loaded(client, again)
            read = read_sample(client)
            assert (read["engine"]["name"], read["degraded"]) == ("paddleocr-vl", False)
            again.ctrl_c()
        assert again.process.returncode == 0 and "finishing the requests in flight" in again.output
        assert "Warning" not in again.output, again.output
    after = stored_pages()
    assert {name: after[name] for name in stored} == stored, "no page is stored a second time"
    logs = {file.resolve() for pattern in ("*.log", "*.err") for file in home.rglob(pattern) if file.is_file()}
    texts = {file: file.read_text(errors="replace") for file in logs}
    of_jobs = "".join(text for file, text in texts.items() if file.match("serve/*Jobs*.log"))
    pages = [int(number) for number in re.findall(rf"job {job_id}: page (\d+) is done", of_jobs)]
    assert len(pages) == len(set(pages)), "and none is recognized again"
    unlogged = set(range(1, PAGES + 1)) - set(pages)
    assert unlogged <= {int(Path(name).stem) for name in stored} and len(unlogged) <= 1, (
        "that one was not logged in time"
    )
    assert "Traceback" not in running.output + again.output
    assert "s3cret" not in running.output
    assert not [file for file, text in texts.items() if "s3cret" in text], "keys are never logged"


def test_mistakes_at_start_are_one_clear_line(home: Path) -> None:
    port = free_port()
    with httpx.Client():
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            running = Running(home, port)
            assert running.process.wait(START_S) == 1
            running._reader.join(5)
            assert running.output.count("\n") == 1 and "make serve PORT=" in running.output
    (home / "config.yaml").write_text("applications: [{name: ocr, import_path: x:y, args: {engins: []}}]")
    running = Running(home, port)
    assert running.process.wait(START_S) == 1
    running._reader.join(5)
    assert "engins" in running.output and "Traceback" not in running.output


def test_a_gpu_that_is_not_there_is_one_clear_sentence(home: Path) -> None:
    (home / "config.yaml").write_text((ROOT / "configs/gpu.yaml").read_text())
    running = Running(home, free_port(), RAY_OVERRIDE_RESOURCES='{"CPU": 2}')
    assert running.process.wait(START_S) == 1
    running._reader.join(5)
    assert "The engine paddleocr-vl needs 1 GPU, but Ray finds 0 on this machine." in running.output
    assert "Traceback" not in running.output
