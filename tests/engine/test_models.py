"""Finding models as the library does, and fetching them with it: from a source that answers, hangs or is not there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.fetch import PATIENCE_S
from serve_app.recognition.engines.paddleocr_vl.models import (
    Model,
    ModelsMissing,
    ensure,
    inspect_model,
    needed_models,
    pull,
)
from serve_app.settings import PaddleOcrVlSettings

ROOT = Path(__file__).parents[2]
SERVER = {"backend": "vllm-server", "url": "http://127.0.0.1:8118/v1"}
STATIC = {"inference.yml": b"Global: {}\n", "inference.json": b"{}", "inference.pdiparams": b"weights"}
VERSIONS = ["v1", "v1.5", "v1.6"]


def safetensors(data: bytes = b"12345678") -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


VLM = {
    "inference.yml": b"Global: {}\n",
    "config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"",
    "model.safetensors": safetensors(),
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def locate(model: Model) -> Path | None:
    """Its folder, if all is there that it needs."""
    place = inspect_model(model)
    return None if place.problem else place.folder


def settings(**options: object) -> PaddleOcrVlSettings:
    return PaddleOcrVlSettings.model_validate(options)


def needed(**options: object) -> list[str]:
    return [model.name for model in needed_models(settings(**options))]


def native(folder: Path | str) -> dict[str, str]:
    return {"backend": "native", "model_dir": str(folder)}


def only(name: str, **options: object) -> Model:
    (model,) = (model for model in needed_models(settings(**options)) if model.name == name)
    return model


def child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Paddle's, and no way out of this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, "http://127.0.0.1:9")
    for spelling in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(spelling, "127.0.0.1")
    monkeypatch.delenv("PADDLE_PDX_HUGGING_FACE_ENDPOINT", raising=False)
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(tmp_path / "paddlex"))
    return tmp_path / "paddlex"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["PP-DocLayoutV3", "PaddleOCR-VL-1.6-0.9B"]),
        ({"pipeline_version": "v1.5"}, ["PP-DocLayoutV3", "PaddleOCR-VL-1.5-0.9B"]),
        ({"pipeline_version": "v1"}, ["PP-DocLayoutV2", "PaddleOCR-VL-0.9B"]),
        ({"vlm": SERVER}, ["PP-DocLayoutV3"]),
        ({"vlm": SERVER, "doc_preprocessor": True}, ["PP-DocLayoutV3", "PP-LCNet_x1_0_doc_ori", "UVDoc"]),
    ],
)
def test_which_models_a_replica_loads(options: dict[str, object], names: list[str]) -> None:
    assert needed(**options) == names


def test_what_a_replica_loads_is_what_the_librarys_pipelines_say(home: Path) -> None:
    code = """if True:
        import json
        from paddlex.inference import load_pipeline_config as load
        def names(config):
            modules = [*config["SubModules"].values(), *config["SubPipelines"]["DocPreprocessor"]["SubModules"].values()]
            return [module["model_name"] for module in modules]
        print(json.dumps([names(load(f"PaddleOCR-VL{version}")) for version in ("", "-1.5", "-1.6")]))
    """
    done = child(code)
    assert json.loads(done.stdout) == [needed(pipeline_version=v, doc_preprocessor=True) for v in VERSIONS], done.stderr


def test_a_paddlex_file_may_name_folders_and_the_settings_win(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    modules = {
        "LayoutDetection": {"model_name": "PP-DocLayoutV2", "model_dir": "/from/file/layout"},
        "VLRecognition": {"model_dir": "/from/file/vlm"},
    }
    unwarping = {"SubModules": {"DocUnwarping": {"model_dir": "/from/file/unwarping"}}}
    file.write_text(yaml.safe_dump({"SubModules": modules, "SubPipelines": {"DocPreprocessor": unwarping}}))
    layout, vlm, orientation, flat = needed_models(
        settings(paddlex_config=str(file), vlm=native("/from/settings/vlm"), doc_preprocessor=True)
    )
    assert (layout.name, layout.folder, layout.option) == (
        "PP-DocLayoutV2", Path("/from/file/layout"), "paddlex_config",
    )  # fmt: skip
    assert (vlm.folder, vlm.option) == (Path("/from/settings/vlm"), "vlm.model_dir")
    assert (orientation.folder, orientation.option) == (None, "orientation_model_dir")
    assert flat.folder == Path("/from/file/unwarping")


def test_a_paddlex_file_may_choose_another_engine_and_so_another_package(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("engine: transformers\nSubModules: {LayoutDetection: {engine: onnxruntime}}\n")
    layout, vlm = needed_models(settings(paddlex_config=str(file)))
    assert (layout.package, vlm.package) == ("PP-DocLayoutV3_onnx", "PaddleOCR-VL-1.6-0.9B")
    write(home / "official_models" / layout.package, {"inference.yml": b"", "inference.onnx": b"graph"})
    assert locate(layout) == home / "official_models" / "PP-DocLayoutV3_onnx"


@pytest.mark.parametrize("text", [None, "- a list", "{"])
def test_a_paddlex_file_that_cannot_be_read_is_a_plain_reason(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "pipeline.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(EngineLoadError, match=r"^the file that paddlex_config is set to "):
        needed_models(settings(paddlex_config=str(file)))


def test_models_are_where_the_library_looks_for_them(home: Path) -> None:
    models = [model for v in VERSIONS for model in needed_models(settings(pipeline_version=v, doc_preprocessor=True))]
    folders = home / "official_models"
    for name in ("PP-DocLayoutV2", "PP-DocLayoutV3", "PP-LCNet_x1_0_doc_ori", "UVDoc"):
        write(folders / name, STATIC)
    for name in ("PaddleOCR-VL-1.5", "PaddleOCR-VL-1.6"):
        write(folders / name, VLM)
    write(folders / "PaddleOCR-VL", VLM)
    inner = folders / "PaddleOCR-VL" / "PaddleOCR-VL-0.9B"

    before = [str(locate(model)) for model in models]
    code = """if True:
        import os, sys
        from paddlex.inference.utils.official_models import official_models
        for name in sys.argv[2:]: print(official_models.get_model_path(name))
        os.makedirs(sys.argv[1])
        print(official_models.get_model_path("PaddleOCR-VL-0.9B"))
    """
    done = child(code, str(inner), *(model.name for model in models))
    assert done.stdout.splitlines() == [*before, str(inner)], done.stderr
    assert inspect_model(only("PaddleOCR-VL-0.9B", pipeline_version="v1")).folder == inner


@pytest.mark.parametrize("name", sorted(STATIC))
def test_a_layout_model_without_one_of_its_files_does_not_count(home: Path, name: str) -> None:
    model = only("PP-DocLayoutV3")
    folder = write(home / "official_models/PP-DocLayoutV3", STATIC)
    assert locate(model) == folder
    (folder / name).unlink()
    assert locate(model) is None
    assert inspect_model(model).problem == f"lacks {name}"


@pytest.mark.parametrize("name", sorted(VLM))
def test_a_vlm_without_one_of_its_files_does_not_count(tmp_path: Path, name: str) -> None:
    model = only("PaddleOCR-VL-1.6-0.9B", vlm=native(write(tmp_path / "vlm", VLM)))
    assert locate(model) == tmp_path / "vlm"
    (tmp_path / "vlm" / name).unlink()
    assert inspect_model(model).problem == f"lacks {name}"


@pytest.mark.parametrize(
    "weights",
    [safetensors()[:-1], safetensors()[:20], b"", b"\xff" * 64, safetensors() + b"?"],
    ids=["data cut", "header cut", "empty", "no header", "too long"],
)
def test_weights_that_are_not_whole_do_not_count(tmp_path: Path, weights: bytes) -> None:
    folder = write(tmp_path / "vlm", {**VLM, "model.safetensors": weights})
    assert inspect_model(only("PaddleOCR-VL-1.6-0.9B", vlm=native(folder))).problem == "has a damaged model.safetensors"


def test_what_is_configured_is_not_fetched_and_its_setting_is_named(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "layout", {"inference.yml": b""})
    options = settings(vlm=SERVER, layout_model_dir=str(tmp_path / "layout"))
    with pytest.raises(ModelsMissing) as caught:
        ensure(options)
    assert str(caught.value) == (
        "the folder that layout_model_dir names for PP-DocLayoutV3 lacks inference.json and inference.pdiparams: "
        "correct it, or unset it"
    )
    write(tmp_path / "layout", STATIC)
    ensure(options)
    assert not home.exists()


def test_without_download_nothing_is_fetched(home: Path) -> None:
    with pytest.raises(ModelsMissing) as caught:
        ensure(settings(vlm=SERVER, download=False))
    assert str(caught.value) == (
        "the model PP-DocLayoutV3 is missing, and `download` is off: "
        "run `python -m serve_app models pull CONFIG` where there is internet, or set layout_model_dir"
    )
    assert not home.exists()


class Source(ThreadingHTTPServer):
    """As much of a model hub as the library asks for, with one model; `silent`: no file list ever comes."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.silent = False
        self.asked: list[str] = []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), SourceHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class SourceHandler(BaseHTTPRequestHandler):
    server: Source
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        commit = "0" * 40
        if path == "/":
            self.answer(b"")
        elif self.server.silent:
            self.server.closing.wait()
        elif f"/tree/{commit}" in path:
            sizes = ((name, data, hashlib.sha1(data).hexdigest()) for name, data in self.server.files.items())
            tree = [{"type": "file", "path": name, "size": len(data), "oid": oid} for name, data, oid in sizes]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/PaddlePaddle/"):
            self.answer(json.dumps({"id": "PaddlePaddle/model", "sha": commit, "siblings": []}).encode())
        else:
            self.answer(self.server.files[path.rpartition("/")[2]], commit)

    def answer(self, data: bytes, commit: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        if commit:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """The library's own words are what the tests inspect_model for."""


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[dict[str, bytes]], Source]]:
    servers: list[Source] = []

    def start(files: dict[str, bytes]) -> Source:
        server = Source(files)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PADDLE_PDX_HUGGING_FACE_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        return server

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


def test_what_is_missing_is_fetched_and_found(
    home: Path, source: Callable[[dict[str, bytes]], Source], capfd: pytest.CaptureFixture[str]
) -> None:
    server = source(STATIC)
    folder = home / "official_models/PP-DocLayoutV3"
    write(folder, {"inference.yml": b"of a download that broke off"})
    ensure(settings(vlm=SERVER))
    assert locate(only("PP-DocLayoutV3")) == folder
    assert {name: (folder / name).read_bytes() for name in STATIC} == STATIC
    assert [path.name for path in folder.parent.iterdir()] == ["PP-DocLayoutV3"]
    assert not list((home / "temp").iterdir())

    asked = len(server.asked)
    assert pull(only("PP-DocLayoutV3")) == folder
    assert len(server.asked) == asked, "what is here is not asked for"
    assert capfd.readouterr() == ("", "")


def test_a_source_with_a_broken_model_is_not_asked_for_it_again_and_again(
    home: Path, source: Callable[[dict[str, bytes]], Source]
) -> None:
    server = source({"inference.yml": b""})
    write(home / "official_models/PP-DocLayoutV3", {"inference.json": b"{}"})
    with pytest.raises(
        ModelsMissing, match=r"was fetched, but its folder lacks inference\.json and inference\.pdiparams"
    ):
        pull(only("PP-DocLayoutV3"))
    asked = len(server.asked)
    with pytest.raises(
        ModelsMissing, match=r"also after it was fetched anew: delete it and PP-DocLayoutV3\.incomplete"
    ):
        pull(only("PP-DocLayoutV3"))
    assert len(server.asked) == asked


def test_a_source_that_falls_silent_is_given_up(home: Path, source: Callable[[dict[str, bytes]], Source]) -> None:
    source(STATIC).silent = True
    folder = write(home / "official_models/PP-DocLayoutV3", {"inference.yml": b""})
    with pytest.raises(ModelsMissing) as caught:
        pull(only("PP-DocLayoutV3"), patience_s=1)
    assert caught.value.detail == "nothing arrived for 1 s"
    assert "(whose folder in Paddle's cache lacks inference.json and inference.pdiparams)" in str(caught.value)
    assert folder.is_dir(), "what was there is in its place again"
    assert not list((home / "temp").iterdir())


def test_without_a_network_one_sentence_comes_in_seconds_and_nothing_else(home: Path) -> None:
    code = """if True:
        from serve_app.recognition.engines.paddleocr_vl.models import ModelsMissing, ensure
        from serve_app.settings import PaddleOcrVlSettings
        import logging, sys
        logging.getLogger("ray.serve").addHandler(logging.NullHandler())
        try: ensure(PaddleOcrVlSettings())
        except ModelsMissing as error: print(error)
        assert "paddlex" not in sys.modules
    """
    started = time.monotonic()
    done = child(code)
    assert done.stderr == ""
    assert done.stdout == (
        "the models PP-DocLayoutV3 and PaddleOCR-VL-1.6-0.9B are missing, and could not be fetched: run "
        "`python -m serve_app models pull CONFIG` where there is internet, or set layout_model_dir and vlm.model_dir\n"
    )
    assert time.monotonic() - started < PATIENCE_S + 15, "the patience, and two starts of Python on a busy machine"
    assert not [folder for folder in (home / "official_models").glob("*")]


def run_models(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def config(folder: Path, **options: object) -> str:
    file = folder / "config.yaml"
    engine = {"name": "paddleocr-vl", **options}
    file.write_text(yaml.safe_dump({"applications": [{"name": "ocr", "args": {"engines": [engine]}}]}))
    return str(file)


def test_models_check_says_what_is_where_and_what_to_do(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "vlm", VLM)
    file = config(tmp_path, vlm=native(tmp_path / "vlm"))
    missing = run_models("check", file)
    folder = home / "official_models/PP-DocLayoutV3"
    assert (missing.returncode, missing.stderr) == (1, "")
    heading, layout, vlm = missing.stdout.splitlines()
    assert heading.split() == ["MODEL", "PURPOSE", "MB", "FOLDER"]
    assert layout.split(maxsplit=3) == [
        "PP-DocLayoutV3", "layout", "-", f"missing: {folder} does not exist; python -m serve_app models pull {file}",
    ]  # fmt: skip
    assert vlm.split() == ["PaddleOCR-VL-1.6-0.9B", "reading", "0.0", str(tmp_path / "vlm")]

    write(folder, {**STATIC, "inference.pdiparams": bytes(2_300_000)})
    here = run_models("check", file)
    assert (here.returncode, here.stderr) == (0, "")
    assert here.stdout.splitlines()[1].split() == ["PP-DocLayoutV3", "layout", "2.3", str(folder)]


def test_models_pull_without_a_network_says_so(home: Path, tmp_path: Path) -> None:
    write(home / "official_models/PaddleOCR-VL-1.6", VLM)
    done = run_models("pull", config(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    layout, advice = done.stdout.splitlines()
    assert layout.startswith("PP-DocLayoutV3  could not be downloaded: ")
    assert "on a machine with internet access" in advice and str(home / "official_models") in advice


def test_models_pull_prints_a_line_for_each_model(
    home: Path, tmp_path: Path, source: Callable[[dict[str, bytes]], Source]
) -> None:
    source(STATIC)
    write(home / "official_models/PaddleOCR-VL-1.6", VLM)
    done = run_models("pull", config(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    layout, vlm = done.stdout.splitlines()
    assert layout.startswith("PP-DocLayoutV3  0.0 MB  ") and layout.endswith(" s")
    assert vlm == "PaddleOCR-VL-1.6-0.9B  0.0 MB  present"


def test_a_config_without_the_engine_needs_no_models() -> None:
    for action in ("check", "pull"):
        done = run_models(action, "configs/local.yaml")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The config has no engine paddleocr-vl, so it needs no models.\n"
