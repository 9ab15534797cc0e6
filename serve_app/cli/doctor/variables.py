"""Environment variables of Ray, HAProxy and CUDA, which `doctor` judges. The service's own are in its settings."""

from __future__ import annotations

import os


def variable(name: str) -> str | None:
    """Return what a variable is set to; None if it is not set."""
    return os.environ.get(name)
