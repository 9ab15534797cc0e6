"""Ends processes by their id, with all that they have started."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any

import psutil


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Kill (SIGKILL) a child process and all its descendants, and wait for their end.

    Does nothing to those that have ended, before or meanwhile: raylets end by themselves when their parent does.
    """
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    process.kill()
    process.wait()
    for child in tree:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(tree, timeout=10)
