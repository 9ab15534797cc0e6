"""The command line."""

from __future__ import annotations

import subprocess
import sys


def test_ray_is_not_imported_before_a_command_runs() -> None:
    """Ray reads its settings when it is imported, and `serve` makes them: a Ray without its token does not start."""
    script = (
        "import sys, serve_app.cli.main; print(sorted(name for name in sys.modules if name.split('.')[0] == 'ray'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
