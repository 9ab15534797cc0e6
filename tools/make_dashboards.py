"""Makes the dashboards of Grafana in `configs/grafana/`.

    python -m tools.make_dashboards [FOLDER]

A dashboard is rows of panels, and a panel is a title with queries of Prometheus. Schema version 39 is that of Grafana 11.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "configs" / "grafana"
SCHEMA_VERSION = 39
SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS = 24
APP = 'application=~"$application"'


@dataclass(frozen=True)
class Panel:
    """Queries and their legends. `unit` is Grafana's name of it. A `stat` shows the last value, in red below `least`."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""
    stat: bool = False
    least: float | None = None
    stacked: bool = False


def rate(metric: str, by: str, selector: str = "") -> str:
    """Return the query of a counter's sum a second."""
    return f"sum by ({by}) (rate(ray_{metric}{{{APP}{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str, selector: str = "") -> str:
    """Return the query of a histogram's quantile."""
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', f'le, {by}', selector)})"


def total(metric: str, by: str = "", selector: str = "", of: str = "sum") -> str:
    """Return the query of a gauge over all replicas."""
    return f"{of}{f' by ({by})' if by else ''} (ray_{metric}{{{APP}{selector}}})"


HIT_SHARE = " / ".join(rate("ocr_cache_lookups_total", "application", selector) for selector in (',outcome="hit"', ""))
SPOOL_SHARE = " / ".join(total(f"ocr_spool_{each}", "NodeAddress", of="max") for each in ("bytes", "limit_bytes"))
READ = rate("ocr_pages_total", "engine", ',outcome!="cached"')
TIME_TO_READ = f"{total('ocr_pages_waiting', 'engine')} / {READ}"

SERVICE: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Engines", "bool_on_off", ((total("ocr_engine_up", "engine", of="max"), "{{engine}}"),), stat=True, least=1
        ),
        Panel(
            "Inference servers",
            "bool_on_off",
            ((total("ocr_vlm_server_up", "engine", of="max"), "{{engine}}"),),
            stat=True,
            least=1,
        ),
        Panel("Store", "bool_on_off", ((total("ocr_store_up", of="min"), "store"),), stat=True, least=1),
        Panel("Pages waiting", "short", ((total("ocr_pages_waiting"), "pages"),), stat=True),
        Panel("Jobs", "short", ((total("ocr_jobs", "state"), "{{state}}"),), stat=True),
        Panel("Oldest job", "s", ((total("ocr_oldest_job_seconds", of="max"), "age"),), stat=True),
    ),
    "Pages": (
        Panel(
            "Pages a second",
            "short",
            ((rate("ocr_pages_total", "engine, outcome"), "{{engine}} {{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Failed and degraded pages a second, by reason",
            "short",
            ((rate("ocr_pages_total", "outcome, reason", ',outcome=~"failed|degraded"'), "{{outcome}}: {{reason}}"),),
        ),
        Panel(
            "Seconds a page, median by stage",
            "s",
            ((quantile(0.5, "ocr_page_stage_seconds", "stage, engine"), "{{engine}} {{stage}}"),),
        ),
        Panel(
            "Seconds a page, 95% by stage",
            "s",
            ((quantile(0.95, "ocr_page_stage_seconds", "stage, engine"), "{{engine}} {{stage}}"),),
        ),
        Panel("Pages by key", "short", ((f"topk(10, {rate('ocr_key_pages_total', 'key')})", "{{key}}"),)),
        Panel(
            "Page cache, share of hits",
            "percentunit",
            (
                (
                    HIT_SHARE,
                    "hits",
                ),
            ),
        ),
    ),
    "Requests": (
        Panel(
            "Requests a second, by status",
            "reqps",
            ((rate("ocr_requests_total", "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Refused requests a second, by reason",
            "reqps",
            ((rate("ocr_requests_total", "reason", ',reason!=""'), "{{reason}}"),),
        ),
        Panel("Requests by key", "reqps", ((f"topk(10, {rate('ocr_requests_total', 'key')})", "{{key}}"),)),
        Panel(
            "Seconds a document, 95% by stage",
            "s",
            ((quantile(0.95, "ocr_document_stage_seconds", "stage"), "{{stage}}"),),
        ),
        Panel(
            "Seconds to write an output, 95%", "s", ((quantile(0.95, "ocr_output_seconds", "output"), "{{output}}"),)
        ),
        Panel("Fetches a second", "short", ((rate("ocr_fetches_total", "outcome, reason"), "{{outcome}} {{reason}}"),)),
    ),
    "Jobs, store and processes": (
        Panel("Jobs", "short", ((total("ocr_jobs", "state"), "{{state}}"),)),
        Panel(
            "Jobs that ended, a second",
            "short",
            ((rate("ocr_jobs_ended_total", "state, reason"), "{{state}} {{reason}}"),),
        ),
        Panel(
            "Attempts at webhooks, a second", "short", ((rate("ocr_webhook_attempts_total", "answer"), "{{answer}}"),)
        ),
        Panel(
            "Errors of the store, a second", "short", ((rate("ocr_store_errors_total", "operation"), "{{operation}}"),)
        ),
        Panel(
            "Results in the spool of each node",
            "short",
            ((total("ocr_spool_results", "NodeAddress", of="max"), "{{NodeAddress}}"),),
            "They wait there until the store takes them.",
        ),
        Panel("Spool of each node, used share", "percentunit", ((SPOOL_SHARE, "{{NodeAddress}}"),)),
        Panel(
            "Decoders and writers that died, a second",
            "short",
            (
                (rate("ocr_decoder_deaths_total", "reason"), "decoder {{reason}}"),
                (rate("ocr_writer_deaths_total", "output, reason"), "writer of {{output}} {{reason}}"),
            ),
        ),
        Panel("Webhooks given up, a second", "short", ((rate("ocr_webhooks_ended_total", "state"), "{{state}}"),)),
    ),
}

CAPACITY: dict[str, tuple[Panel, ...]] = {
    "Demand": (
        Panel(
            "Pages waiting and in flight",
            "short",
            (
                (total("ocr_pages_waiting", "engine"), "{{engine}} waiting"),
                (total("ocr_pages_in_flight", "engine"), "{{engine}} in flight"),
            ),
        ),
        Panel(
            "Time until the waiting pages are read",
            "s",
            (
                (
                    TIME_TO_READ,
                    "{{engine}}",
                ),
            ),
            "At the pace of the last minutes. A page that the fallback engine reads counts there.",
        ),
        Panel(
            "Seconds in an engine's queue, 95%",
            "s",
            (
                (
                    quantile(0.95, "ocr_page_stage_seconds", "engine", ',stage="queue"'),
                    "{{engine}}",
                ),
            ),
        ),
    ),
    "Replicas": (
        Panel(
            "Replicas: wanted, target and running",
            "short",
            (
                ("max by (deployment) (ray_serve_autoscaling_desired_replicas{" + APP + "})", "{{deployment}} wanted"),
                ("max by (deployment) (ray_serve_autoscaling_target_replicas{" + APP + "})", "{{deployment}} target"),
                ("sum by (deployment) (ray_serve_deployment_replica_healthy{" + APP + "})", "{{deployment}} running"),
            ),
        ),
        Panel("Engines by phase", "short", ((total("ocr_engine_state", "engine, phase"), "{{engine}} {{phase}}"),)),
        Panel(
            "Seconds to load an engine", "s", ((total("ocr_engine_load_seconds", "engine", of="max"), "{{engine}}"),)
        ),
    ),
    "Use": (
        Panel(
            "Busy share of each engine replica",
            "percentunit",
            ((rate("ocr_engine_busy_seconds_total", "engine, replica"), "{{engine}} {{replica}}"),),
            "Replicas are added when the queue asks for it; near 100% for long means that `max` is too small.",
        ),
        Panel(
            "Busy share of each rasterizer",
            "percentunit",
            ((rate("ocr_rasterizer_busy_seconds_total", "replica"), "{{replica}}"),),
        ),
        Panel("Pages a batch, median", "short", ((quantile(0.5, "ocr_batch_pages", "engine"), "{{engine}}"),)),
        Panel("CPU of each node", "percent", (("ray_node_cpu_utilization", "{{NodeAddress}}"),)),
        Panel(
            "Memory of each node, used share",
            "percentunit",
            (("ray_node_mem_used / ray_node_mem_total", "{{NodeAddress}}"),),
        ),
        Panel("GPUs of each node", "percent", (("ray_node_gpus_utilization", "{{NodeAddress}} {{GpuIndex}}"),)),
        Panel(
            "Object store of each node",
            "bytes",
            (("sum by (NodeAddress) (ray_object_store_memory)", "{{NodeAddress}}"),),
        ),
    ),
}


def dashboard(title: str, uid: str, rows: dict[str, tuple[Panel, ...]]) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in rows.items():
        panels.append(_placed({"type": "row", "title": heading, "panels": []}, len(panels), 0, y, COLUMNS, 1))
        y += 1
        stats = row[0].stat
        width, height = (COLUMNS // len(row), 4) if stats else (COLUMNS // 3, 8)
        for index, panel in enumerate(row):
            x = index * width % COLUMNS
            panels.append(_placed(_panel(panel), len(panels), x, y + index * width // COLUMNS * height, width, height))
        y += height * -(-len(row) * width // COLUMNS)
    return {
        "title": title,
        "uid": uid,
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["ocr"],
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
            {
                "name": "application", "type": "query", "label": "Application", "datasource": SOURCE,
                "query": {"query": "label_values(ray_ocr_store_up, application)", "refId": "application"},
                "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "refresh": 2,
            },
        ]},
        "panels": panels,
    }  # fmt: skip


def _placed(panel: dict[str, Any], number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.stat:
        red_below = [{"color": "red", "value": None}, {"color": "green", "value": panel.least}]
        steps = [{"color": "blue", "value": None}] if panel.least is None else red_below
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
    elif panel.stacked:
        defaults["custom"] = {"fillOpacity": 30, "stacking": {"mode": "normal"}}
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def dashboards() -> dict[str, str]:
    """Return the text of each file by its name."""
    made = {
        "service.json": dashboard("OCR: service", "ocr-service", SERVICE),
        "capacity.json": dashboard("OCR: capacity", "ocr-capacity", CAPACITY),
    }
    return {name: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, text in dashboards().items():
        (folder / name).write_text(text)
