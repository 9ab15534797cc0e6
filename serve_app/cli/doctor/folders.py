"""Folders that may not be made yet, which several checks look at."""

from __future__ import annotations

from pathlib import Path


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(level for level in (folder, *folder.parents) if level.exists())
