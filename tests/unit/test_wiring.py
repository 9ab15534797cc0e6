"""What the ingress and jobs share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from ray.serve.handle import DeploymentHandle

from serve_app.pipeline.wiring import open_services
from serve_app.settings import Secrets, Settings


async def test_engines_are_watched_by_handles_whose_routers_send_no_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the router of the pages knows of a replica would never be too old, although the watch brings it no news."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # a process has one
    settings = Settings.model_validate(
        {
            "engines": [{"name": "dummy"}],
            "store": {"kind": "folder", "path": str(tmp_path)},
            "temp_dir": str(tmp_path / "temp"),
        }
    )
    rasterizer: DeploymentHandle[Any] = DeploymentHandle("Rasterizer", "ocr")
    of_pages: DeploymentHandle[Any] = DeploymentHandle("Recognizer-dummy", "ocr")
    services = open_services(settings, Secrets(), rasterizer, {"dummy": of_pages})
    watched = services.engines["dummy"]._recognizer
    assert watched.deployment_id == of_pages.deployment_id and watched.handle_id != of_pages.handle_id
    await services.store.close()
