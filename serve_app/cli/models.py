"""`python -m serve_app models`: checks and downloads the models that a config needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from serve_app.recognition.engines.engine import EngineLoadError
from serve_app.recognition.engines.paddleocr_vl.fetch import cache_folder, folder_bytes
from serve_app.recognition.engines.paddleocr_vl.models import (
    Model,
    ModelsMissing,
    inspect_model,
    needed_models,
    pull,
)
from serve_app.settings import PaddleOcrVlSettings, Settings

PATIENCE_S = 60.0
"""Seconds that a download may stall. Long, since the user watches and can interrupt it."""


def check_models(settings: Settings, *, config: str) -> int:
    """Print where each model is. Returns the exit status: 1 if a model is missing."""
    models = _models(settings)
    if isinstance(models, int):
        return models
    rows = [("MODEL", "PURPOSE", "MB", "FOLDER")]
    status = 0
    for model in models:
        found = inspect_model(model)
        if found.problem is None:
            rows.append((model.name, model.purpose, _megabytes(found.folder), str(found.folder)))
        else:
            status = 1
            rows.append(
                (
                    model.name,
                    model.purpose,
                    "-",
                    f"missing: {found.folder} {found.problem}; {_remedy(model, config)}",
                )
            )
    _print_table(rows)
    return status


def pull_models(settings: Settings, *, config: str) -> int:
    """Download missing models and print a line for each model. Returns the exit status: 1 if one is still missing."""
    models = _models(settings)
    if isinstance(models, int):
        return models
    failed = offline = False
    for model in models:
        if inspect_model(model).problem is None:
            print(f"{model.name}  {_megabytes(inspect_model(model).folder)} MB  present", flush=True)
            continue
        print(f"{model.name}  ", end="", flush=True)
        started = time.monotonic()
        try:
            folder = pull(model, patience_s=PATIENCE_S)
        except ModelsMissing as error:
            failed = True
            print(f"could not be downloaded: {error.detail}" if error.detail else str(error), flush=True)
            if error.detail:
                offline = True
                break  # the same cause would stop the others
        else:
            print(f"{_megabytes(folder)} MB  {time.monotonic() - started:.0f} s", flush=True)
    if offline:
        print(
            f"Run `python -m serve_app models pull {config}` on a machine with internet access and copy the folder "
            f"{cache_folder()} from there to this machine, or set the models' folders in the config."
        )
    return int(failed)


def _models(settings: Settings) -> tuple[Model, ...] | int:
    """Return the models of the config's engine, or an exit status if there are none or they cannot be determined."""
    engine = next((engine for engine in settings.engines if isinstance(engine, PaddleOcrVlSettings)), None)
    if engine is None:
        print("The config has no engine paddleocr-vl, so it needs no models.")
        return 0
    try:
        return needed_models(engine)
    except EngineLoadError as error:
        print(f"Cannot determine the models: {error}.")
        return 1


def _remedy(model: Model, config: str) -> str:
    return f"python -m serve_app models pull {config}" if model.folder is None else f"correct {model.option}"


def _megabytes(folder: Path) -> str:
    return f"{folder_bytes(folder) / 1e6:.1f}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
