"""Configured paths."""

from __future__ import annotations

from pathlib import Path


def resolve(path: str) -> Path:
    """Make a configured path absolute: expand `~`, and resolve relative paths from the working directory."""
    return Path(path).expanduser().resolve()
