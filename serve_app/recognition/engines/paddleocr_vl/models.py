"""Finds, checks and downloads the models that a PaddleOCR-VL configuration needs.

Folders are found by the library's rules but without importing it, which takes seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.fetch import PATIENCE_S, FetchFailed, cache_folder, download_lock, fetch
from serve_app.settings import NativeVlmSettings, PaddleOcrVlSettings, resolve

log = logging.getLogger("ray.serve.paddleocr_vl")

LAYOUT = {"v1": "PP-DocLayoutV2", "v1.5": "PP-DocLayoutV3", "v1.6": "PP-DocLayoutV3"}
VLM = {"v1": "PaddleOCR-VL-0.9B", "v1.5": "PaddleOCR-VL-1.5-0.9B", "v1.6": "PaddleOCR-VL-1.6-0.9B"}
ORIENTATION, UNWARPING = "PP-LCNet_x1_0_doc_ori", "UVDoc"

# The library's package names for the inference engines that a PaddleX file may select.
PACKAGE_SUFFIX = {"transformers": "_safetensors", "paddle_dynamic": "_safetensors", "onnxruntime": "_onnx"}

# Files that the library opens. Each entry lists alternatives.
STATIC_FILES = (("inference.yml",), ("inference.json", "inference.pdmodel"), ("inference.pdiparams",))
FILES_BY_SUFFIX = {
    "_safetensors": (("inference.yml",), ("model.safetensors", "inference.pdparams", "model_state.pdparams")),
    "_onnx": (("inference.yml",), ("inference.onnx",)),
}
VLM_FILES = (
    ("inference.yml",),
    ("config.json",),
    ("preprocessor_config.json",),
    ("tokenizer.model",),
    ("chat_template.jinja",),
    ("model.safetensors", "model_state.pdparams", "inference.pdparams"),
)


class ModelsMissing(EngineLoadError):
    """Models are missing. `detail` is the error of the library or the system if a download failed."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


@dataclass(frozen=True)
class Model:
    """A model that a replica loads. `folder` is the configured folder, or None for Paddle's cache.

    `option` is the setting for that folder; `package` is the name under which the model is downloaded.
    """

    name: str
    purpose: str
    option: str
    folder: Path | None
    package: str


@dataclass(frozen=True)
class ModelFolder:
    """The folder where a model is, or belongs. `problem` says what is wrong with it, such as "lacks inference.yml"."""

    folder: Path
    problem: str | None


def needed_models(settings: PaddleOcrVlSettings) -> tuple[Model, ...]:
    """Return the models that a replica loads. Raises EngineLoadError if `paddlex_config` cannot be read."""
    file = _paddlex_config(settings.paddlex_config)
    version = settings.pipeline_version
    module = _part(file, "SubModules", "LayoutDetection")
    models = [_model(LAYOUT[version], "layout", "layout_model_dir", settings.layout_model_dir, [file, module])]
    if isinstance(settings.vlm, NativeVlmSettings):
        module = _part(file, "SubModules", "VLRecognition")
        models.append(_model(VLM[version], "reading", "vlm.model_dir", settings.vlm.model_dir, [file, module]))
    if settings.doc_preprocessor:
        pipeline = _part(file, "SubPipelines", "DocPreprocessor")
        for name, purpose, folder, part in (
            (ORIENTATION, "orientation", settings.orientation_model_dir, "DocOrientationClassify"),
            (UNWARPING, "unwarping", settings.unwarping_model_dir, "DocUnwarping"),
        ):
            chain = [file, pipeline, _part(pipeline, "SubModules", part)]
            models.append(_model(name, purpose, f"{purpose}_model_dir", folder, chain))
    return tuple(models)


def inspect_model(model: Model) -> ModelFolder:
    """Find and check the folder of `model`. Reads only file names, sizes and the header of the weights."""
    folder = model.folder or _folder_in_cache(model)
    return ModelFolder(folder, _problem(folder, _files(model)))


def pull(model: Model, *, patience_s: float = PATIENCE_S) -> Path:
    """Download `model` into Paddle's cache with the library's downloader, unless it is complete. Blocks until done.

    An incomplete folder is replaced. `patience_s` is the longest wait for the first bytes, in seconds. Returns the
    model's folder. Raises ModelsMissing.
    """
    if model.folder is not None:
        if problem := inspect_model(model).problem:
            raise ModelsMissing(f"the folder that {model.option} names for {model.name} {problem}")
        return model.folder
    if importlib.util.find_spec("paddlex") is None:
        raise ModelsMissing("the package paddleocr is not installed: make paddleocr-vl")
    try:
        with download_lock(model.package):  # replicas on one machine share the cache
            if inspect_model(model).problem:
                _replace(model, patience_s)
    except (OSError, FetchFailed) as error:
        sentence = f"{_missing([model])}, and could not be fetched: {_advice([model])}"
        raise ModelsMissing(sentence, detail=str(error)) from error
    if problem := inspect_model(model).problem:
        raise ModelsMissing(f"{model.name} was fetched, but its folder {problem}")
    return inspect_model(model).folder


def ensure(settings: PaddleOcrVlSettings) -> None:
    """Download missing models if the settings allow it.

    Raises ModelsMissing with one sentence on what to do, within seconds if there is no network.
    """
    absent = [model for model in needed_models(settings) if inspect_model(model).problem]
    for model in absent:
        if model.folder is not None:
            raise ModelsMissing(
                f"the folder that {model.option} names for {model.name} {inspect_model(model).problem}: correct it, or unset it"
            )
    if not absent:
        return
    if not settings.download:
        raise ModelsMissing(f"{_missing(absent)}, and `download` is off: {_advice(absent)}")
    try:
        for model in absent:
            pull(model)
    except ModelsMissing as error:
        absent = [model for model in absent if inspect_model(model).problem]
        if not absent or not error.detail:
            raise
        _warn_once(error.detail)
        sentence = f"{_missing(absent)}, and could not be fetched: {_advice(absent)}"
        raise ModelsMissing(sentence, detail=error.detail) from error


def _model(name: str, purpose: str, option: str, folder: str | None, chain: Sequence[Mapping[str, Any]]) -> Model:
    """Make a Model. `chain`: the parts of the PaddleX file that apply, from the whole pipeline down to the module."""
    module = chain[-1]
    name = module.get("model_name") or name
    if folder is None and module.get("model_dir"):
        option, folder = "paddlex_config", str(module["model_dir"])
    engine = next((part["engine"] for part in reversed(chain) if "engine" in part), None)
    suffix = "" if _is_vlm(name) else PACKAGE_SUFFIX.get(engine or "", "")
    return Model(name, purpose, option, None if folder is None else resolve(folder), name + suffix)


def _is_vlm(name: str) -> bool:
    return name.startswith("PaddleOCR-VL")


def _paddlex_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        file = yaml.safe_load(resolve(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EngineLoadError("the file that paddlex_config is set to could not be read") from error
    if not isinstance(file, dict):
        raise EngineLoadError("the file that paddlex_config is set to is not a PaddleX pipeline")
    return file


def _part(tree: Mapping[str, Any], *names: str) -> dict[str, Any]:
    part: Any = tree
    for name in names:
        part = part.get(name) if isinstance(part, Mapping) else None
    return dict(part) if isinstance(part, Mapping) else {}


def _download_folder(model: Model) -> Path:
    # Folders of PaddleOCR-VL releases are named by version, without the model size.
    return cache_folder() / (model.package.replace("-0.9B", "") if _is_vlm(model.package) else model.package)


def _folder_in_cache(model: Model) -> Path:
    folder = _download_folder(model)
    inner = folder / "PaddleOCR-VL-0.9B"  # one source bundles the first release with its layout model
    return inner if folder.name == "PaddleOCR-VL" and inner.is_dir() else folder


def _files(model: Model) -> tuple[tuple[str, ...], ...]:
    return VLM_FILES if _is_vlm(model.name) else FILES_BY_SUFFIX.get(model.package[len(model.name) :], STATIC_FILES)


def _problem(folder: Path, files: Sequence[Sequence[str]]) -> str | None:
    if not folder.is_dir():
        return "does not exist"
    lacking = [names[0] for names in files if not any((folder / name).is_file() for name in names)]
    if lacking:
        return f"lacks {' and '.join(lacking)}"
    weights = folder / "model.safetensors"
    if weights.is_file() and not _is_complete(weights):
        return f"has a damaged {weights.name}"
    return None


def _is_complete(weights: Path) -> bool:
    """Whether a safetensors file has the length that its header gives. An interrupted copy is shorter."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, AttributeError, TypeError):
            return False
    return bool(size == 8 + length + max(ends, default=0))


def _missing(models: Sequence[Model]) -> str:
    names = [
        model.name if problem == "does not exist" else f"{model.name} (whose folder in Paddle's cache {problem})"
        for model, problem in ((model, inspect_model(model).problem) for model in models)
    ]
    return f"the models {_list(names)} are missing" if len(names) > 1 else f"the model {names[0]} is missing"


def _advice(models: Sequence[Model]) -> str:
    options = _list([model.option for model in models])
    return f"run `python -m serve_app models pull CONFIG` where there is internet, or set {options}"


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


@cache
def _warn_once(detail: str) -> None:
    log.warning("models could not be fetched: %s", detail)  # once, since loading is retried for ever


def _replace(model: Model, patience_s: float) -> None:
    """Download `model` in place of a broken folder, which is restored if nothing arrives and deleted on success."""
    folder = _download_folder(model)
    aside = folder.with_name(f"{folder.name}.incomplete")
    broken = folder.exists()
    if broken and aside.exists():  # otherwise a source with a broken model would be retried for ever
        raise ModelsMissing(
            f"the folder of {model.name} in Paddle's cache {inspect_model(model).problem}, also after it was fetched anew: "
            f"delete it and {aside.name} beside it"
        )
    if broken:  # the library would accept it as the model
        folder.rename(aside)
    try:
        fetch(model.package, patience_s)
    finally:
        if broken and not folder.exists():
            aside.rename(folder)
    if not inspect_model(model).problem:
        shutil.rmtree(aside, ignore_errors=True)
