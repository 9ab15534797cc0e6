"""Checks of what the engines need: packages, language data, fonts, models, GPUs, an inference server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from serve_app.cli.doctor.configuration import on_cluster
from serve_app.cli.doctor.finding import Check, Code, Finding, ok, problem, warning
from serve_app.cli.doctor.variables import variable
from serve_app.raster.fonts import missing_fonts, packages_of
from serve_app.recognition.engines.engine import EngineLoadError, VlmServerState
from serve_app.recognition.engines.paddleocr_vl.models import inspect_model, needed_models
from serve_app.recognition.engines.tessdata import find_tessdata, has_language
from serve_app.runtime.plain_url import plain_url
from serve_app.settings import (
    EngineSettings,
    PaddleOcrVlSettings,
    Secrets,
    Settings,
    TesseractSettings,
    VlmServerSettings,
)

GPU_S = 8.0
"""Seconds for `nvidia-smi`, which takes some where the driver is not kept loaded."""

GRACE_S = 2.0
"""Seconds beyond the time limit of a probe, for a busy machine."""

LEAST_DRIVER = (525, 60)
"""The oldest NVIDIA driver for CUDA 12, with which Paddle is built (CUDA 12 release notes, minor version compatibility)."""


def engine_checks(config: str, raw: dict[str, Any], settings: Settings, secrets: Secrets) -> Iterator[Check]:
    """Yield the checks of the engines that are configured, and of fonts."""
    yield Check("fonts", check_fonts)
    # What has a GPU runs on other nodes then. A node with a GPU and without its driver is one of these too: a warning says so.
    gpus_elsewhere = settings.cpu_nodes is not None and on_cluster(raw) and shutil.which("nvidia-smi") is None
    for engine in settings.engines:
        if engine.gpus > 0 and gpus_elsewhere:
            yield Check("GPU", partial(_check_no_gpu, engine))
            continue
        if isinstance(engine, TesseractSettings):
            yield Check("languages", partial(check_languages, engine))
        if isinstance(engine, PaddleOcrVlSettings):
            yield Check("models", partial(_check_models, engine, config))
            if isinstance(engine.vlm, VlmServerSettings):
                yield Check("inference server", partial(check_server, engine.vlm, secrets))
        if engine.gpus > 0:
            yield Check("GPU", partial(_check_gpus, engine, raw))


def check_fonts() -> Iterator[Finding]:
    missing = missing_fonts()
    if missing:
        yield warning(
            "fonts",
            Code.FONTS_MISSING,
            f"PDFs that do not embed theirs lose letters without {', '.join(missing)}; install {packages_of(missing)}",
        )
    else:
        yield ok("fonts", "those for PDFs that do not embed theirs are installed")


def check_languages(engine: TesseractSettings) -> Iterator[Finding]:
    if find_spec("tesserocr") is None:
        yield problem("languages", Code.PACKAGE_MISSING, "the package tesserocr is not installed: make install")
        return
    try:
        folder = find_tessdata(engine.tessdata, engine.languages)
    except EngineLoadError as error:
        yield problem("languages", Code.LANGUAGE_MISSING, str(error))
        return
    if has_language(folder, "osd"):
        yield ok("languages", f"Tesseract has {', '.join(engine.languages)}")
    else:
        yield warning(
            "languages",
            Code.LANGUAGE_MISSING,
            "without 'osd' pages that are turned are not read; install tesseract-ocr-osd",
        )


def _check_models(engine: PaddleOcrVlSettings, config: str) -> Iterator[Finding]:
    absent = [name for name in ("paddle", "paddleocr") if find_spec(name) is None]
    if absent:
        yield problem("models", Code.PACKAGE_MISSING, f"{' and '.join(absent)} not installed: make paddleocr-vl")
        return
    try:
        missing = [model for model in needed_models(engine) if inspect_model(model).problem is not None]
    except EngineLoadError as error:
        yield problem("models", Code.MODELS_MISSING, str(error))
        return
    names = ", ".join(model.name for model in missing)
    if not missing:
        yield ok("models", "those of PaddleOCR-VL are there")
    elif engine.download and all(model.folder is None for model in missing):
        yield warning(
            "models",
            Code.MODELS_MISSING,
            f"{names} will be downloaded when the engine loads; to have them before: python -m serve_app models pull {config}",
        )
    else:
        yield problem(
            "models", Code.MODELS_MISSING, f"{names} cannot be used; see: python -m serve_app models check {config}"
        )


def _check_no_gpu(engine: EngineSettings) -> Iterator[Finding]:
    yield warning(
        "GPU",
        Code.GPU_MISSING,
        f"there is no NVIDIA driver (nvidia-smi), so {engine.name} does not run on this node, and what it needs was not checked: "
        "run this on a node with a GPU too",
    )


def _check_gpus(engine: EngineSettings, raw: dict[str, Any]) -> Iterator[Finding]:
    elsewhere = "; a node for other work needs none" if on_cluster(raw) else ""
    if shutil.which("nvidia-smi") is None:
        yield problem(
            "GPU",
            Code.GPU_MISSING,
            f"there is no NVIDIA driver (nvidia-smi), which {engine.name} needs: install it, in a container start that "
            f"with --gpus all, or set `device: cpu`{elsewhere}",
        )
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=GPU_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        yield problem(
            "GPU", Code.GPU_MISSING, f"nvidia-smi does not end within {GPU_S:g} s: look at `dmesg` for its driver"
        )
        return
    if done.returncode != 0:
        yield problem(
            "GPU", Code.GPU_MISSING, f"nvidia-smi ends with {done.returncode}: run it, and mend the driver{elsewhere}"
        )
        return
    yield from judge_gpus(engine, done.stdout, variable("CUDA_VISIBLE_DEVICES"))
    if engine.name == "paddleocr-vl" and _is_installed("paddlepaddle") and not _is_installed("paddlepaddle-gpu"):
        yield problem(
            "GPU", Code.PACKAGE_MISSING, "Paddle is the build for CPUs: install paddlepaddle-gpu (docs/paddleocr-vl.md)"
        )


def judge_gpus(engine: EngineSettings, listing: str, visible: str | None) -> Iterator[Finding]:
    """Compare what nvidia-smi lists, `name, driver version` a line, with what the engine needs.

    `visible`: CUDA_VISIBLE_DEVICES.
    """
    gpus = [line.rpartition(", ") for line in listing.splitlines() if ", " in line]
    count = len(gpus) if visible is None else min(len(gpus), len([each for each in visible.split(",") if each.strip()]))
    hidden = " (CUDA_VISIBLE_DEVICES hides others)" if count < len(gpus) else ""
    needed = engine.gpus * engine.least_replicas
    if count == 0 or engine.gpus > count:
        yield problem(
            "GPU", Code.GPU_TOO_FEW, f"a replica of {engine.name} needs {engine.gpus:g}, and there are {count}{hidden}"
        )
        return
    name, _, driver = gpus[0]
    if tuple(int(part) for part in driver.split(".")[:2] if part.isdecimal()) < LEAST_DRIVER:
        least = ".".join(map(str, LEAST_DRIVER))
        yield problem(
            "GPU", Code.GPU_DRIVER_OLD, f"the driver {driver} is too old for CUDA 12: install {least} or newer"
        )
    elif needed > count:
        yield warning(
            "GPU",
            Code.GPU_TOO_FEW,
            f"the replicas of {engine.name} need {needed:g}, and this machine has {count}{hidden}: lower `replicas`, or add nodes",
        )
    else:
        yield ok("GPU", f"{count} x {name}, driver {driver}{hidden}")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def check_server(settings: VlmServerSettings, secrets: Secrets) -> Iterator[Finding]:
    check = "inference server"
    if settings.launch is not None:
        program = settings.launch.command[0]
        if shutil.which(program) is None:
            yield problem(
                check, Code.SERVER_COMMAND_MISSING, f"the program {program} is not installed: install it, or set `url`"
            )
        else:
            yield ok(check, f"the replica will start {program}")
        return
    url = (settings.url or "").rstrip("/")
    if "@" in urlsplit(url).netloc and secrets.vlm_api_key is not None:
        message = (
            f"{plain_url(url)} has a user in its `url`, and OCR_VLM_API_KEY is set: only one can be sent, so remove one"
        )
        yield problem(check, Code.SECRETS_INVALID, message)
        return
    state = asyncio.run(_probe(url, settings, secrets))
    if state.available:
        yield ok(check, f"{plain_url(url)} has the model {settings.model or 'that it lists first'}")
    else:
        yield problem(
            check, Code.SERVER_AWAY, f"{plain_url(url)}: {state.reason}. Look at the server, `url` and OCR_VLM_API_KEY"
        )


async def _probe(url: str, settings: VlmServerSettings, secrets: Secrets) -> VlmServerState:
    """Probe the server once, as a replica does."""
    import aiohttp

    from serve_app.recognition.engines.paddleocr_vl.vlm_probe import ServerProbe

    key = secrets.vlm_api_key
    headers = {"Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    probe = ServerProbe(url, model=settings.model, timeout_s=settings.connect_s, on_away=lambda: None)
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        running = asyncio.create_task(probe.run(session))
        await asyncio.to_thread(probe.probed.wait, settings.connect_s + GRACE_S)
        running.cancel()
        await asyncio.wait({running})
    return probe.state
