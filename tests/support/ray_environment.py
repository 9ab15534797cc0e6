"""What is set in the environment of each Ray of the tests."""

from __future__ import annotations

from pathlib import Path

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # as in `make serve`: what competes with the service has this priority too
}

WITHOUT_PANDAS = {"PYTHONPATH": str(Path(__file__).parent / "without_pandas")}
"""For a Ray that does not run PaddleOCR-VL. `make serve` installs no pandas; where it is, each process of Serve imports it, which takes
0.4 s of CPU."""
