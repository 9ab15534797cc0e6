"""`python -m serve_app doctor`: checks this machine for what a config needs, one line each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.raster.fonts import missing_fonts, packages_of
from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.models import inspect_model, needed_models
from serve_app.recognition.engines.tessdata import find_tessdata, has_language
from serve_app.runtime.temp_dir import writable
from serve_app.settings import PaddleOcrVlSettings, Settings, TesseractSettings, resolve

LEAST_TEMPORARY_BYTES = 2**30


@dataclass(frozen=True)
class Finding:
    """The result of one check. `problem` says what is missing and how to get it; None if nothing is."""

    name: str
    problem: str | None = None


def check_machine(settings: Settings, *, config: str) -> int:
    """Print a line for each check. Returns the exit status: 1 if something is missing."""
    findings = list(_findings(settings, config))
    for finding in findings:
        print(
            f"{'missing' if finding.problem else 'ok':8} {finding.name}{f': {finding.problem}' if finding.problem else ''}"
        )
    return int(any(finding.problem for finding in findings))


def _findings(settings: Settings, config: str) -> Iterator[Finding]:
    yield _fonts()
    for engine in settings.engines:
        if isinstance(engine, TesseractSettings):
            yield _languages(engine)
        if isinstance(engine, PaddleOcrVlSettings):
            yield _models(engine, config)
    yield _temporary_files(settings)


def _fonts() -> Finding:
    missing = missing_fonts()
    if not missing:
        return Finding("fonts for PDFs that do not embed theirs")
    return Finding(
        "fonts for PDFs that do not embed theirs",
        f"{', '.join(missing)}; install {packages_of(missing)}",
    )


def _languages(engine: TesseractSettings) -> Finding:
    name = f"languages of {engine.name} ({', '.join(engine.languages)})"
    try:
        folder = find_tessdata(engine.tessdata, engine.languages)
    except EngineLoadError as error:
        return Finding(name, str(error))
    if not has_language(folder, "osd"):
        return Finding(name, "'osd', so turned pages cannot be read; install tesseract-ocr-osd")
    return Finding(name)


def _models(engine: PaddleOcrVlSettings, config: str) -> Finding:
    name = f"models of {engine.name}"
    try:
        missing = [model.name for model in needed_models(engine) if inspect_model(model).problem is not None]
    except EngineLoadError as error:
        return Finding(name, str(error))
    return Finding(name, f"{', '.join(missing)}; see `python -m serve_app models check {config}`" if missing else None)


def _temporary_files(settings: Settings) -> Finding:
    folder = resolve(settings.temp_dir)
    name = f"temporary files in {folder}"
    if not writable(folder):
        return Finding(name, "the folder cannot be written to")
    free = shutil.disk_usage(folder).free
    return Finding(name, f"only {free / 2**20:.0f} MiB are free" if free < LEAST_TEMPORARY_BYTES else None)
