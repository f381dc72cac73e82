"""What is shipped for Prometheus and Grafana, and what the documents say of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exposition import needs_promtool, promtool
from mcr.metrics import health, rules, totals
from mcr.metrics.exposition import Family
from transcript import table_rows

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "packaging/prometheus/mcr.rules.yml"
SCRAPE = ROOT / "packaging/prometheus/scrape.yml"
DASHBOARD = ROOT / "packaging/grafana/mcr.json"
MANUAL = ROOT / "docs/monitoring.md"

METRICS = {
    each.sample for module in (totals, rules, health) for each in vars(module).values() if isinstance(each, Family)
}


def expressions(dashboard: Any) -> Iterator[str]:
    """Of all panels, as Prometheus gets them."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$rule", ".*")


def unknown_metrics(text: str) -> set[str]:
    named = set(re.findall(r"\b(?:mcr|process)_[a-z_]+\b", text))
    return named - METRICS


@pytest.mark.slow
@needs_promtool
def test_alerts_fire_by_their_causes_and_clear() -> None:
    assert "SUCCESS: " in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts.test.yml"))


def test_every_alert_is_tested_and_told() -> None:
    alerts = re.findall(r"^ +- alert: (\w+)", ALERTS.read_text(), re.MULTILINE)
    tested = Path(__file__).with_name("alerts.test.yml").read_text()
    assert [each for each in alerts if each not in tested] == []
    assert [row[0].strip("`") for row in table_rows(MANUAL.read_text(), "Alerts")] == alerts


@needs_promtool
def test_the_scrape_configuration_is_prometheus_s(tmp_path: Path) -> None:
    text = SCRAPE.read_text()
    shipped = "/usr/share/mcr/prometheus/mcr.rules.yml"
    assert text.count(shipped) == 1
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace(shipped, str(ALERTS)))
    assert "SUCCESS: " in promtool("check", "config", path)
    jobs = set(re.findall(r"job_name: ([\w-]+)", text))
    assert jobs == {"mcr", "mcr-rules"}


@needs_promtool
def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    asked = [*expressions(json.loads(DASHBOARD.read_text()))]
    assert asked
    recorded = [{"record": f"x:{number}", "expr": each} for number, each in enumerate(asked)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "x", "rules": recorded}]}))  # JSON is YAML
    assert f"SUCCESS: {len(asked)} rules" in promtool("check", "rules", path)


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own, and do not overlap; each variable that is asked for is defined."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(x, y) for panel in panels for x, y in cells(panel["gridPos"])]
    assert len(set(places)) == len(places)
    assert all(0 <= x < 24 for x, _ in places)
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", DASHBOARD.read_text())) == variables
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 38


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD, MANUAL], ids=lambda path: str(path.name))
def test_no_metric_is_asked_for_that_there_is_not(path: Path) -> None:
    assert unknown_metrics(path.read_text()) == set()


def test_the_manual_names_every_metric() -> None:
    assert {row[0].strip("`") for row in table_rows(MANUAL.read_text(), "Metrics")} == METRICS
