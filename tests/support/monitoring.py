"""The expressions of alerts and dashboards, as Prometheus takes them."""

from __future__ import annotations

import json
import re
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


_COMPARISON = re.compile(
    r"""\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}  # a selector, whose operators compare labels
    | "(?:[^"\\]|\\.)*"
    | (?P<operator>==|!=|>=|<=|>|<)(?:\s*bool\b)?\s*""",
    re.VERBOSE,
)


def sooner(rules: str) -> str:
    """Return rules, or an expression of theirs, that are met within seconds: they look every second instead of every minute,
    wait for a second, and take seconds where they take hours."""
    text = rules.replace(":1m]", ":1s]").replace("6 * 3600", "6 * 1")
    return re.sub(r"^( +for:) \w+$", r"\1 1s", text, flags=re.MULTILINE)


def unconditional(expression: str) -> str:
    """Return the expression with comparisons that give 0 or 1 for each series, not only those series for which they hold.

    So an alert's expression has data while the alert does not fire, if both sides of each comparison have some.
    """

    def with_bool(match: re.Match[str]) -> str:
        return f"{match['operator']} bool " if match["operator"] else match[0]

    return _COMPARISON.sub(with_bool, expression)


def in_prometheus(metric: Instrument) -> str:
    """Return the name under which expressions find a metric."""
    return f"{EXPORTED_PREFIX}{metric.name}{'_bucket' if isinstance(metric, Histogram) else ''}"
