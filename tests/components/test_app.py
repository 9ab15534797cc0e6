"""The graph of deployments: what a start imports, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.serve._private.replica import _load_deployment_def_from_import_path

from serve_app import app


@pytest.mark.parametrize("path", [app.INGRESS, app.JOBS, app.RASTERIZER, app.RECOGNIZER])
def test_replicas_find_the_class_of_their_deployment(path: str) -> None:
    assert path.endswith(f".{_load_deployment_def_from_import_path(path).__name__}")


def test_building_the_graph_imports_nothing_that_only_replicas_need() -> None:
    """No replica starts before the graph is built, so each import there delays all of them."""
    code = "import sys, serve_app.app; print(*(name for name in sys.modules if name.startswith('serve_app.')))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "serve_app.settings" in imported
    rooms = ("pipeline", "outputs", "fetching", "recognition", "raster", "storage", "jobs")
    assert not [name for name in imported if name.split(".")[1] in rooms]
