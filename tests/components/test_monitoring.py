"""The alerts, run by promtool on series made for them, and the dashboards of Grafana."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import errors
from serve_app.metrics.catalogue import instruments
from tests.support.monitoring import ALERTS, expressions, in_prometheus, sooner, unconditional, without_variables
from tools.make_dashboards import FOLDER, dashboards

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "support" / "alerts.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
EXPRESSIONS = expressions()


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_fires_when_its_thing_breaks_and_not_otherwise() -> None:
    promtool("test", "rules", CASES)
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", [])]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in RULES}


def test_each_alert_has_a_line_that_says_what_to_do() -> None:
    rows = re.findall(r"^\| `(Ocr\w+)` \|", (ROOT / "docs" / "operate.md").read_text(), re.M)
    assert rows == [rule["alert"] for rule in RULES]


def test_pages_that_are_the_fault_of_their_document_are_no_reason_for_an_alert() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "OcrPagesFailing"]
    (codes,) = re.findall(r'reason!~"([^"]+)"', rule["expr"])
    kinds = {
        kind.code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError)
    }
    assert {kinds[code].status // 100 for code in codes.split("|")} == {4}
    of_documents = {code for code, kind in errors._DOCUMENT_ERRORS.items() if kind.status < 500}
    assert of_documents <= set(codes.split("|"))


def test_prometheus_of_compose_loads_the_alerts(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "compose" / "prometheus.yaml").read_text()
    (tmp_path / ALERTS.name).write_text(ALERTS.read_text())
    (tmp_path / "token").write_text("secret")
    (tmp_path / "prometheus.yaml").write_text(text.replace("/run/secrets/ray-token", "token"))
    assert f"{len(RULES)} rules found" in promtool("check", "config", tmp_path / "prometheus.yaml")


def test_the_dashboards_are_written_by_their_script() -> None:
    files = {file.name: file.read_text() for file in FOLDER.glob("*.json")}
    assert files == dashboards(), "run `make dashboards`"


@pytest.mark.parametrize("name", list(dashboards()))
def test_a_dashboard_is_whole(name: str) -> None:
    board = json.loads(dashboards()[name])
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and len(set(places)) == len(places)
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"] and panel["targets"]


def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [{"record": f"r{n}", "expr": without_variables(each)} for n, each in enumerate(EXPRESSIONS)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("max by (engine) (up) == 0", "max by (engine) (up) == bool 0"),
        ('a{b!="x>1}",c="\\"<"}>5', 'a{b!="x>1}",c="\\"<"}> bool 5'),
        ('label_replace(a, "b", "<$1>", "c", "(.*)") <= 1', 'label_replace(a, "b", "<$1>", "c", "(.*)") <= bool 1'),
        ("a >= bool 1 or b != 2", "a >= bool 1 or b != bool 2"),
        ('sum(a{b=~"c|d"})', 'sum(a{b=~"c|d"})'),
    ],
)
def test_the_condition_of_an_alert_can_be_taken_off(expression: str, expected: str) -> None:
    assert unconditional(expression) == expected


def test_every_expression_without_its_condition_parses(tmp_path: Path) -> None:
    rules = [{"record": f"r{n}", "expr": unconditional(rule["expr"])} for n, rule in enumerate(RULES)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "alerts", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")
    compared = [rule["expr"] for rule in RULES if "absent(" not in rule["expr"]]
    assert all("bool" in unconditional(each) for each in compared)


def test_the_sooner_rules_of_the_tests_are_those_of_the_service_but_for_their_times() -> None:
    (group,) = yaml.safe_load(sooner(ALERTS.read_text()))["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [rule["alert"] for rule in RULES]
    assert {rule.get("for", "1s") for rule in group["rules"]} == {"1s"}


def test_every_metric_of_the_service_is_shown_and_no_other_is_made_up() -> None:
    ours = {in_prometheus(each) for each in instruments()}
    named = {name for each in EXPRESSIONS for name in re.findall(r"\bray_ocr_\w+", each)}
    assert named == ours


def test_every_label_that_an_expression_asks_for_is_one_of_its_metric() -> None:
    labels = {in_prometheus(each): set(each.labels) for each in instruments()}
    of_ray = {"le", "application", "deployment", "replica", "NodeAddress"}
    for each in EXPRESSIONS:
        for name, selector in re.findall(r"\b(ray_ocr_\w+)\{([^}]*)\}", each):
            asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector))
            assert asked <= labels[name] | of_ray, each
        named = re.findall(r"\bray_ocr_\w+", each)
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", each) for label in group.split(",")}
        if named:
            assert grouped <= set.union(*(labels[name] for name in named)) | of_ray, each
