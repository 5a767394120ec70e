"""The dashboard and the alert rules speak of metrics that are there, and alerts fire when due."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from alarmdigest.observability.stream_changes import CHANGES

RULES = ROOT / "deploy/prometheus-alerts.yml"
HISTORIES = ROOT / "tests/alerts_test.yml"
DASHBOARD = ROOT / "deploy/grafana-dashboard.json"
# Other tests hold these lists to what each process shows.
LISTS = ("metrics", "bridge", "schedules", "deliver")
LISTED = "".join((ROOT / f"docs/{one}.md").read_text("utf-8") for one in LISTS)


def known_series() -> set[str]:
    """Names as a query has them: those of a histogram with their endings."""
    found = set()
    for name, kind in re.findall(r"^\| `(alarmdigest_\w+)` \| (\w+) ", LISTED, re.MULTILINE):
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + end for end in ends}
    return found


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\balarmdigest_\w+", text))


def test_every_metric_of_the_dashboard_is_there(dashboard: Any) -> None:
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    for query in queries:
        # What Prometheus knows of every process is not ours.
        ours = named_in(query) or "process_" in query
        assert ours, f"no metric of ours in {query}"
        assert named_in(query) <= known_series(), query


def test_every_metric_of_the_rules_is_there() -> None:
    expressions = re.findall(r"^ +expr:(.*?)^ +(?:for|labels):", RULES.read_text(), re.M | re.S)
    assert len(expressions) == RULES.read_text().count("- alert:")
    for expression in expressions:
        assert named_in(expression) <= known_series(), expression


def test_the_operating_page_tells_of_every_rule_and_its_metrics() -> None:
    rules = re.findall(
        r"- alert: (\w+)\n +expr:(.*?)^ +(?:for|labels):", RULES.read_text(), re.M | re.S
    )
    operating = (ROOT / "docs/operating.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(Alarmdigest\w+)` \| (.*?) \|", operating, re.MULTILINE))
    assert {
        name: {metric.removesuffix("_bucket") for metric in named_in(query)}
        for name, query in rules
    } == {name: named_in(metrics) for name, metrics in told.items()}


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None and not os.environ.get("CI"):
        pytest.skip("no promtool on this machine; Debian has it in the package prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", HISTORIES)


def test_the_histories_know_every_change_of_a_stream() -> None:
    """A rule picks them by their names, and would be silent about one of another name."""
    assert set(re.findall(r'change="(\w+)"', HISTORIES.read_text("utf-8"))) == set(CHANGES)


def test_prometheus_reads_the_queries_of_the_dashboard(dashboard: Any, tmp_path: Path) -> None:
    """As rules: promtool parses an expression nowhere else without a server."""
    names = {"$__rate_interval": "5m", "$instance": ".*"}
    rules = []
    for panel in dashboard["panels"]:
        for number, target in enumerate(panel["targets"]):
            query = target["expr"]
            for name, value in names.items():
                query = query.replace(name, value)
            rules.append({"record": f"panel:{panel['id']}:{number}", "expr": query})
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)
