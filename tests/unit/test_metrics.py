"""The catalogue of metrics, and what counts there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.metrics_table import metrics_page
from serve_app.document import EngineInfo, ErrorInfo, Page, PageContent, PageResult
from serve_app.errors import PageTimeout, ServiceError
from serve_app.metrics.catalogue import KEY_PAGES, PAGE_STAGE_SECONDS, PAGES, instruments
from serve_app.metrics.instruments import MOST_VALUES, OTHER, Counter, Gauge, Histogram, Instrument
from serve_app.pipeline.page_count import count_page
from tests.support.metrics import grows

ROOT = Path(__file__).parents[2]
SOURCES = list((ROOT / "serve_app").rglob("*.py"))
UNITS = {"seconds": "_seconds", "bytes": "_bytes"}


def test_the_page_of_the_documentation_is_written_from_the_catalogue() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page(), "run `make metrics`"


@pytest.mark.parametrize("each", instruments(), ids=lambda each: each.name)
def test_a_name_says_what_prometheus_wants_it_to_say(each: Instrument) -> None:
    assert re.fullmatch(r"ocr_[a-z_]+[a-z]", each.name)
    assert each.name.endswith("_total") is isinstance(each, Counter)
    for unit, ending in UNITS.items():
        assert (ending in each.name) is (each.unit == unit), f"{each.name} in {each.unit}"
    assert all(re.fullmatch("[a-z_]+", label) for label in each.labels)
    assert not {"application", "deployment", "replica", "route"} & set(each.labels), "Serve's own"
    if isinstance(each, Histogram):
        assert list(each.buckets) == sorted(set(each.buckets)) and each.buckets[0] > 0


def test_no_other_module_exports_a_metric_and_none_of_the_catalogue_is_left_alone() -> None:
    sources = {file.relative_to(ROOT / "serve_app").as_posix(): file.read_text() for file in SOURCES}
    of_ray = ("ray.serve.metrics", "ray.util.metrics", "ray.serve import metrics", "ray.util import metrics")
    exporting = {name for name, text in sources.items() if any(each in text for each in of_ray)}
    assert exporting == {"metrics/instruments.py"}
    making = {name for name, text in sources.items() if "serve_app.metrics.instruments import" in text}
    assert making == {"metrics/catalogue.py", "cli/metrics_table.py"}
    names = re.findall(r"^([A-Z_]+) = (?:Counter|Gauge|Histogram)\(", sources["metrics/catalogue.py"], re.M)
    assert len(names) == len(instruments())
    elsewhere = "".join(text for name, text in sources.items() if not name.startswith("metrics/"))
    used = set(re.findall(r"\b([A-Z_]+)\.(?:inc|set|observe)\(", elsewhere))
    assert used >= set(names)


def test_a_process_without_ray_counts_too() -> None:
    pages = Counter("ocr_test_total", "", unit="pages", labels=("engine",))
    pages.inc(engine="a")
    pages.inc(2, engine="a")
    pages.inc(0, engine="b")
    assert (pages.value(engine="a"), pages.value(engine="b")) == (3, 0)
    waiting = Gauge("ocr_test", "", unit="pages")
    waiting.set(4)
    waiting.set(3)
    assert waiting.value() == 3
    took = Histogram("ocr_test_seconds", "", unit="seconds", buckets=(1.0, 2.0), labels=("stage",))
    took.observe(1.5, stage="a")
    assert took.value(stage="a") == 1


@pytest.mark.parametrize("labels", [{}, {"engine": "a", "page": "7"}, {"page": "7"}])
def test_a_metric_refuses_other_labels_than_its_own(labels: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ocr_test_total"):
        Counter("ocr_test_total", "", unit="pages", labels=("engine",)).inc(**labels)


def test_a_label_has_a_bounded_number_of_values() -> None:
    requests = Counter("ocr_test_total", "", unit="requests", labels=("key",))
    for number in range(MOST_VALUES + 5):
        requests.inc(key=f"key-{number}")
    requests.inc(key="key-0")
    assert requests.value(key="key-0") == 2
    assert requests.value(key=OTHER) == 5 and requests.value(key=f"key-{MOST_VALUES}") == 0


def page(*, timings_ms: dict[str, float] | None = None, warnings: tuple[str, ...] = ()) -> PageResult:
    shown = Page(number=1, width=1, height=1, dpi=1, degraded=bool(warnings))
    shown.warnings = [ErrorInfo(code=code, message="") for code in warnings]
    return PageResult(PageContent(shown), EngineInfo(name="fast", version="1"), timings_ms or {})


@pytest.mark.parametrize(
    ("result", "labels"),
    [
        (page(), {"engine": "fast", "outcome": "done", "reason": ""}),
        (page(timings_ms={"cache": 3.0}), {"engine": "fast", "outcome": "cached", "reason": ""}),
        (
            page(warnings=("fallback_engine", "b")),
            {"engine": "fast", "outcome": "degraded", "reason": "fallback_engine"},
        ),
        (PageTimeout(), {"engine": "asked", "outcome": "failed", "reason": "page_timeout"}),
    ],
    ids=["done", "cached", "degraded", "failed"],
)
def test_a_page_counts_by_how_it_ended(result: PageResult | ServiceError, labels: dict[str, Any]) -> None:
    with grows(PAGES, **labels), grows(KEY_PAGES, key="alice"):
        count_page(result, engine="asked", owner="alice")


def test_the_stages_of_a_page_count_each() -> None:
    with (
        grows(PAGE_STAGE_SECONDS, stage="rasterize", engine="fast"),
        grows(PAGE_STAGE_SECONDS, stage="queue", engine="fast"),
        grows(PAGE_STAGE_SECONDS, 0, stage="recognize", engine="fast"),
    ):
        count_page(page(timings_ms={"rasterize": 30.0, "queue": 0.0}), engine="asked", owner="alice")
