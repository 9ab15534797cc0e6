"""`python -m serve_app metrics`: writes docs/metrics.md from the catalogue of metrics."""

from __future__ import annotations

from serve_app.metrics.catalogue import instruments
from serve_app.metrics.instruments import EXPORTED_PREFIX, MOST_VALUES, OTHER, Histogram, Instrument

INTRODUCTION = f"""\
# Metrics

<!-- Written by `make metrics` from serve_app/metrics/catalogue.py: edit that file. -->

[Operate](operate.md#metrics) says where Prometheus finds them. Ray puts `{EXPORTED_PREFIX}` before every name, and adds labels:
`application`, `deployment` and `replica` of Serve, and those of Ray, such as `NodeAddress`. A counter or histogram appears with its first
event. Values are exported every ten seconds.

No label has more than {MOST_VALUES} values for each replica: further ones, as of key names, count as `{OTHER}`. Labels never have a key,
an address or a document.

Ray passes on only the buckets of a histogram. So its `_count` and `_bucket` are exact, and its `_sum` takes each value as the middle of its
bucket: use quantiles rather than means.

## The service"""


def metrics_page() -> str:
    """Return Markdown: a table of all metrics, and one of the buckets of histograms."""
    lines = [INTRODUCTION, "", "| Metric | Kind | Unit | Labels | Meaning |", "|---|---|---|---|---|"]
    lines += [_row(each) for each in instruments()]
    lines += ["", "## Buckets", "", "| Histogram | Upper bounds |", "|---|---|"]
    for each in instruments():
        if isinstance(each, Histogram):
            lines.append(f"| `{EXPORTED_PREFIX}{each.name}` | {', '.join(f'{bound:g}' for bound in each.buckets)} |")
    return "\n".join(lines) + "\n"


def _row(each: Instrument) -> str:
    labels = ", ".join(f"`{label}`" for label in each.labels) or "none"
    return f"| `{EXPORTED_PREFIX}{each.name}` | {each.kind} | {each.unit} | {labels} | {each.meaning} |"
