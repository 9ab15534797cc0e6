"""The expressions of alerts and dashboards, as Prometheus takes them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from serve_app.metrics.instruments import EXPORTED_PREFIX, Histogram, Instrument

CONFIGS = Path(__file__).parents[2] / "configs"
ALERTS = CONFIGS / "prometheus" / "alerts.yaml"


def expressions() -> list[str]:
    """Return those of the alerts, and those of the panels of all dashboards with Grafana's variables."""
    alerts = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    boards = [json.loads(file.read_text()) for file in sorted((CONFIGS / "grafana").glob("*.json"))]
    panels = [panel for board in boards for panel in board["panels"]]
    return [*alerts, *(target["expr"] for panel in panels for target in panel.get("targets", []))]


def without_variables(expression: str, *, window: str = "5m") -> str:
    """Put in what Grafana does: every application, and the window of rates."""
    return expression.replace("$application", ".*").replace("$__rate_interval", window)


def in_prometheus(metric: Instrument) -> str:
    """Return the name under which expressions find a metric."""
    return f"{EXPORTED_PREFIX}{metric.name}{'_bucket' if isinstance(metric, Histogram) else ''}"
