"""Every alert fires when it should and stays quiet when it should, by Prometheus' own promtool."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.case import Case, Cases
from tests.alerts.every import CLUSTER, EMBEDDED
from tests.watched_fleets import on_clusters, with_a_peak

from gpufleet.core.monitoring.rules import Alert, Group, Record
from gpufleet.core.monitoring.site_rules import rule_groups
from gpufleet.edges.engines import resolve
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

FLEET = with_a_peak(load_fleet(PROJECT_ROOT / "fleets/article/production.yaml"))
KINDS = {
    "embedded": (rule_groups(FLEET, "main"), EMBEDDED),
    "cluster": (rule_groups(on_clusters(FLEET), "main"), CLUSTER),
}


def declared() -> Iterator[tuple[str, Alert]]:
    """Every alert of an embedded site, and those of a cluster's that differ."""
    seen = []
    for kind, (groups, _) in KINDS.items():
        for group in groups:
            for alert in group.alerts:
                if alert not in seen:
                    seen.append(alert)
                    yield kind, alert


ALERTS = list(declared())


@pytest.fixture(scope="module")
def promtool() -> Path:
    return resolve(lambda _: None, ["prometheus"]).path("promtool")


def test_no_case_is_left_of_an_alert_that_is_gone() -> None:
    for groups, cases in KINDS.values():
        assert {(a.name, a.severity.value) for group in groups for a in group.alerts} == set(cases)


@pytest.mark.parametrize(
    ("kind", "alert"),
    ALERTS,
    ids=[f"{alert.name}-{alert.severity}-{kind}" for kind, alert in ALERTS],
)
def test_an_alert_fires_when_it_should_and_stays_quiet_when_it_should(
    promtool: Path, tmp_path: Path, kind: str, alert: Alert
) -> None:
    groups, known = KINDS[kind]
    cases: Cases = known[alert.name, alert.severity.value]
    assert cases.fires
    assert cases.quiet
    assert all(case.labels is not None for case in cases.fires)
    assert all(case.labels is None for case in cases.quiet)
    needed = _needed(groups, alert)
    for step_min in {case.step_min for case in (*cases.fires, *cases.quiet)}:
        rules = tmp_path / f"rules-{step_min}.yaml"
        evaluated = {"name": "needed", "interval": f"{60 * step_min:g}s", "rules": needed}
        rules.write_text(yaml.safe_dump({"groups": [evaluated]}))
        tests = [
            _test(case, alert) for case in (*cases.fires, *cases.quiet) if case.step_min == step_min
        ]
        file = tmp_path / f"tests-{step_min}.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "rule_files": [rules.name],
                    "evaluation_interval": f"{60 * step_min:g}s",
                    "tests": tests,
                }
            )
        )
        told = subprocess.run(
            [promtool, "test", "rules", file], capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stdout + told.stderr


def _needed(groups: tuple[Group, ...], alert: Alert) -> list[dict[str, Any]]:
    """An alert, after the recordings that it reads, and those that they read."""
    records = [rule for group in groups for rule in group.rules if isinstance(rule, Record)]
    found: list[Record] = []
    wanted = [alert.expr]
    slo = alert.labels.get("slo")
    while wanted:
        expr = wanted.pop()
        for record in records:
            known = record in found or record.labels.get("slo", slo) != slo
            if not known and re.search(rf"(?<![\w:]){re.escape(record.name)}(?![\w:])", expr):
                found.append(record)
                wanted.append(record.expr)
    rules: list[Record | Alert] = [*reversed(found), alert]
    return [rule.data() for rule in rules]


def _test(case: Case, alert: Alert) -> dict[str, Any]:
    labels = case.labels or {}
    chosen = f'alertname="{alert.name}",severity="{alert.severity}",alertstate="firing"'
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    expected = [] if case.labels is None else [{"labels": f"{{{shown}}}", "value": 1}]
    return {
        "interval": f"{60 * case.step_min:g}s",
        "input_series": [
            {"series": series, "values": values} for series, values in case.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f"count by ({','.join(labels)}) (ALERTS{{{chosen}}})",
                "eval_time": f"{case.at_min}m",
                "exp_samples": expected,
            }
        ],
    }
