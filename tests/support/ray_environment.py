"""What is set in the environment of each Ray of the tests."""

from __future__ import annotations

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # as in `make serve`: what competes with the service has this priority too
}
