"""Rules, monitors and dashboards refer to what exists; thresholds are what can be seen."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.watched_fleets import on_clusters, with_a_peak

from gpufleet.core import engine_metrics
from gpufleet.core import vocabulary as names
from gpufleet.core.gateway import series
from gpufleet.core.monitoring import gpus, platform, pools
from gpufleet.core.monitoring.burn import PAIRS, Pair, burn_group, pairs, threshold
from gpufleet.core.monitoring.dashboards import dashboard_objects
from gpufleet.core.monitoring.monitors import pool_monitor
from gpufleet.core.monitoring.objectives import Objective, Slo, objectives_of
from gpufleet.core.monitoring.rules import Alert, Record
from gpufleet.core.monitoring.site_rules import (
    alerts,
    retention_s,
    rule_groups,
    rule_objects,
    watches_gateway,
)
from gpufleet.core.monitoring.standing import Answers, budget_window, row_of
from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.slo_reports import SloState
from gpufleet.tasks.slo_view import bar

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
ARTICLE = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")


SITES = [
    (fleet, site)
    for declared in (SAMPLE, with_a_peak(ARTICLE))
    for fleet in (declared, on_clusters(declared))
    for site in fleet.sites
]
ALERTS = {alert.name: alert for fleet, site in SITES for alert in alerts(fleet, site)}
OTHERS = {
    "up",
    "ALERTS",
    "kube_pod_labels",
    "node_vmstat_pswpin",
    "node_vmstat_pswpout",
    "prometheus_rule_evaluation_failures_total",
}
"""Of Prometheus itself, kube-state-metrics and node exporter."""
WORD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_:]*")
NO_SERIES = {
    "and",
    "or",
    "unless",
    "on",
    "by",
    "group_left",
    "bool",
    "vector",
    "time",
    "sum",
    "avg",
}
NO_SERIES |= {"max", "count", "rate", "increase", "changes", "floor", "absent", "label_replace"}
NO_SERIES |= {"sum_over_time", "max_over_time", "histogram_quantile", "hour", "day_of_month"}
NO_SERIES |= {"days_in_month"}


def known() -> set[str]:
    """Every series that somebody tells."""
    found = set(OTHERS)
    for module in (engine_metrics, series, gpus, platform, pools):
        for value in vars(module).values():
            if isinstance(value, str) and re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", value):
                found |= {value, *(f"{value}_{suffix}" for suffix in ("bucket", "sum", "count"))}
    recorded = {
        rule.name
        for fleet, site in SITES
        for group in rule_groups(fleet, site)
        for rule in group.rules
        if isinstance(rule, Record)
    }
    return found | recorded


KNOWN = known()


def series_of(expr: str) -> set[str]:
    """The series that PromQL refers to."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"offset \w+", "", bare)
    bare = re.sub(r"(by|on|group_left|without|ignoring) ?\([^)]*\)", "", bare)
    return {word for word in WORD.findall(bare) if word not in NO_SERIES}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert.name)
def test_the_runbook_of_every_alert_exists_with_its_section(alert: Alert) -> None:
    page, anchor = alert.runbook_path.split("#")
    headings = re.findall(r"^#+ (.+)$", (PROJECT_ROOT / page).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in headings}
    assert anchor in anchors


def test_no_section_of_a_runbook_is_left_of_an_alert_that_is_gone() -> None:
    linked = {alert.runbook_path for alert in ALERTS.values()}
    for page in (PROJECT_ROOT / "runbooks").glob("alerts-*.md"):
        for head in re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE):
            anchor = head.lower().replace(" ", "-")
            assert head == "Look" or f"runbooks/{page.name}#{anchor}" in linked


def test_rules_read_only_series_that_somebody_tells() -> None:
    for fleet, site in SITES:
        for group in rule_groups(fleet, site):
            for rule in group.rules:
                assert series_of(rule.expr) <= KNOWN, rule.expr


def test_dashboards_read_only_series_that_somebody_tells() -> None:
    objects = dashboard_objects(ARTICLE)
    assert len(objects) == 5
    for thing in objects:
        assert thing["metadata"]["labels"]["grafana_dashboard"] == "1"
        (text,) = thing["data"].values()
        board = json.loads(text)
        assert board["uid"].startswith("gpufleet-")
        targets = [target for panel in board["panels"] for target in panel["targets"]]
        assert targets
        for target in targets:
            assert series_of(target["expr"]) <= KNOWN, target["expr"]


@pytest.mark.parametrize(("fleet", "site"), SITES)
def test_a_name_of_an_alert_is_one_condition_and_severity_by_use_case(
    fleet: Fleet, site: str
) -> None:
    found = [(a.name, a.severity, a.labels.get("use_case")) for a in alerts(fleet, site)]
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("fleet", "site"), SITES)
def test_every_threshold_of_a_latency_is_a_bucket_bound(fleet: Fleet, site: str) -> None:
    bounds = {
        series.REQUEST_S: engine_metrics.REQUEST_BOUNDS_S,
        series.TTFT_S: engine_metrics.TTFT_BOUNDS_S,
        engine_metrics.QUEUE_TIME: engine_metrics.REQUEST_BOUNDS_S,
    }
    for group in rule_groups(fleet, site):
        for rule in group.rules:
            for stem, le in re.findall(r'([\w:]+)_bucket\{[^}]*le="([^"]+)"', rule.expr):
                assert float(le) in bounds[stem]
                assert le == repr(float(le))


def test_a_target_between_two_bounds_is_alerted_at_the_lower_and_says_so() -> None:
    (found,) = [
        each
        for each in objectives_of(SAMPLE)
        if each.use_case == "support-chat" and each.slo is Slo.LATENCY
    ]
    assert (found.target_s, found.bound_s) == (12, 10)
    said = "alerted at 10 s, the bound below the declared 12 s"
    assert said in found.told
    told = [
        alert.description
        for alert in alerts(SAMPLE, "fra1")
        if alert.name == "LatencyBudgetBurn" and alert.labels["use_case"] == "support-chat"
    ]
    assert told
    assert all(said in each for each in told)


def test_a_target_that_is_a_bound_says_nothing_of_it() -> None:
    assert all(each.bound_told == "" for each in objectives_of(ARTICLE))


@given(st.floats(1e-6, 1), st.sampled_from(PAIRS))
def test_every_burn_alert_can_fire_and_no_single_request_makes_it(
    budget: float, pair: Pair
) -> None:
    objective = Objective("a", "b", Slo.ERRORS, budget)
    limit = threshold(objective, pair)
    assert 0 < limit < 1
    for alert in burn_group("a", (objective,), 10 * 86400).alerts:
        assert alert.expr.count(">= 3") == alert.expr.count(">= 10") == 2


def test_a_window_longer_than_what_is_kept_is_not_alerted_on() -> None:
    assert retention_s(ARTICLE, "main") == 86400
    assert [pair.long for pair in pairs(86400)] == ["1h", "6h", "1d"]
    assert pairs(10 * 86400) == PAIRS
    assert budget_window(86400) == "1d"
    assert budget_window(90 * 86400) == "30d"


def test_the_gateway_is_watched_once_where_embedded_sites_share_it() -> None:
    assert [watches_gateway(SAMPLE, site) for site in SAMPLE.sites] == [True, False]


def test_each_cluster_watches_its_own_gateway_and_none_where_none_is_declared() -> None:
    clusters, bare = on_clusters(SAMPLE), on_clusters(SAMPLE, with_gateway=False)
    assert all(watches_gateway(clusters, site) for site in SAMPLE.sites)
    for site in SAMPLE.sites:
        assert not watches_gateway(bare, site)
        told = {alert.name for alert in alerts(bare, site)}
        assert not {"GatewayDown", "AvailabilityBudgetBurn"} & told


OF_THE_WORKER = {
    "WorkerDown",
    "FreezeSyncStale",
    "FreezeStateStale",
    "ChoresFail",
    "PatchOverdue",
    "DrillForReal",
    "DrillOverdue",
    "PrewarmMissing",
    "PrewarmStale",
    "PrewarmWeightsMissing",
    "SnapshotOlderThanRPO",
    "ProtectionOlderThanRPO",
}


def test_the_worker_is_watched_by_one_site() -> None:
    for fleet in (with_a_peak(SAMPLE), on_clusters(with_a_peak(SAMPLE), with_gateway=False)):
        first, *others = fleet.sites
        assert {alert.name for alert in alerts(fleet, first)} >= OF_THE_WORKER
        for site in others:
            assert not {alert.name for alert in alerts(fleet, site)} & OF_THE_WORKER


def test_a_stale_look_at_peaks_is_told_only_where_peaks_are_declared() -> None:
    told = {alert.name for alert in alerts(SAMPLE, next(iter(SAMPLE.sites)))}
    assert "PrewarmStale" not in told
    assert "PrewarmMissing" in told


def test_replicas_are_missing_only_once_the_slowest_start_is_over() -> None:
    for fleet, site in SITES:
        (missing,) = [a for a in alerts(fleet, site) if a.name == "PoolReplicasMissing"]
        for pool in pools_at(fleet, site):
            restore_s = pool.model.size_bytes / LOCAL_RESTORE_BYTES_PER_S
            assert missing.for_s >= restore_s + pool.startup.budget_s
    large = max(pools_at(SAMPLE, "fra1"), key=lambda pool: pool.model.size_bytes)
    huge = replace(large, model=large.model.model_copy(update={"load_time_s": 1000.0}))
    assert pools.longest_start_s([huge]) >= 3000
    assert pools.longest_start_s([huge]) == pools.longest_start_s([huge, large])


def test_rules_are_small_objects_in_the_namespace_of_monitoring() -> None:
    for fleet, site in SITES:
        for thing in rule_objects(fleet, site):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", thing["metadata"]["name"])
            assert thing["metadata"]["namespace"] == names.MONITORING_NAMESPACE
            assert thing["metadata"]["labels"][names.FLEET] == fleet.slug
            assert len(json.dumps(thing)) < 32 * 1024


def test_series_have_the_same_labels_on_a_cluster_as_on_an_embedded_site() -> None:
    spec = pool_monitor(SAMPLE.slug, "fra1")["spec"]
    assert {names.POOL, names.MODEL} <= set(spec["podTargetLabels"])
    (endpoint,) = spec["podMetricsEndpoints"]
    replaced = {
        rule["targetLabel"]: rule["replacement"]
        for rule in endpoint["relabelings"]
        if "targetLabel" in rule
    }
    assert replaced == {"job": "replicas", "gpufleet_dev_site": "fra1"}


def test_a_budget_is_spent_only_by_enough_requests() -> None:
    objective = Objective("a", "b", Slo.ERRORS, 0.01)
    few = Answers(bad=0.5, burn_1h=0.5, burn_6h=0.5, current=0.5, requests=4)
    assert row_of(objective, few).state is SloState.UNKNOWN
    many = Answers(bad=0.02, burn_1h=0.1, burn_6h=0.02, current=0.1, requests=400)
    row = row_of(objective, many)
    assert row.state is SloState.SPENT
    assert row.left == pytest.approx(-1)
    assert row.burn_1h == pytest.approx(10)
    none = Answers(bad=None, burn_1h=None, burn_6h=None, current=None, requests=None)
    assert row_of(objective, none).state is SloState.UNKNOWN


def test_time_needs_no_requests_to_be_lost() -> None:
    objective = Objective("a", "b", Slo.AVAILABILITY, 0.01)
    gone = Answers(bad=0.5, burn_1h=1, burn_6h=0.5, current=1, requests=None)
    assert row_of(objective, gone).state is SloState.SPENT


@pytest.mark.parametrize(
    ("left", "shown"), [(1, "█" * 10), (0.5, "█████░░░░░"), (-3, "░" * 10), (None, "")]
)
def test_a_bar_is_full_with_the_whole_budget_and_empty_once_it_is_spent(
    left: float | None, shown: str
) -> None:
    assert bar(left) == shown
