"""Gates, the breaker, and how long a batch takes."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.watched_fleets import on_clusters

from gpufleet.core.patching import durations
from gpufleet.core.patching.breaker import Action, decide
from gpufleet.core.patching.gates import gates_of, verdict
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patching import Gate, HostOutcome, HostState, Part, PatchOrder

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
ORDER = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version="580.105.08")
GATE = Gate(name="restarts: chat", site="fra1", query="up", at_most=1)


def outcomes(*states: HostState) -> list[HostOutcome]:
    return [HostOutcome(host=f"gpu-{n}", state=state) for n, state in enumerate(states)]


DONE, FAILED, LOST = HostState.DONE, HostState.FAILED, HostState.RUNNING


def test_a_wave_without_failures_goes_on() -> None:
    decision = decide(ORDER, outcomes(DONE, HostState.UNCHANGED), can_go_back=True)
    assert decision.action is Action.GO_ON


def test_one_failure_brings_back_the_hosts_that_have_the_new_version() -> None:
    decision = decide(ORDER, outcomes(DONE, FAILED, DONE, HostState.UNCHANGED), can_go_back=True)
    assert decision.action is Action.ROLL_BACK
    assert decision.roll_back == ["gpu-0", "gpu-2"]
    assert decision.reason == "1 of 4 hosts failed (gpu-1), 0 may"


def test_a_component_that_cannot_go_back_stops_and_nothing_is_undone() -> None:
    decision = decide(ORDER, outcomes(DONE, FAILED), can_go_back=False)
    assert (decision.action, decision.roll_back) == (Action.STOP, [])


def test_nothing_is_brought_back_where_nothing_was_patched() -> None:
    assert decide(ORDER, outcomes(FAILED), can_go_back=True).action is Action.STOP


@pytest.mark.parametrize("can_go_back", [True, False])
def test_a_host_of_which_nothing_was_heard_is_quarantined_and_counts_as_failed(
    *, can_go_back: bool
) -> None:
    decision = decide(ORDER, outcomes(DONE, LOST), can_go_back=can_go_back)
    assert decision.action is not Action.GO_ON
    assert decision.quarantine == ["gpu-1"]


def test_failures_that_the_order_allows_do_not_stop_a_wave() -> None:
    order = ORDER.model_copy(update={"failures_allowed": 1})
    allowed = decide(order, outcomes(DONE, HostState.QUARANTINED), can_go_back=True)
    assert allowed.action is Action.GO_ON
    assert decide(order, outcomes(DONE, FAILED, FAILED), can_go_back=True).action is not (
        Action.GO_ON
    )


def test_a_wave_of_which_every_host_has_failed_stops_whatever_the_order_allows() -> None:
    order = ORDER.model_copy(update={"failures_allowed": 5})
    decision = decide(order, outcomes(FAILED, FAILED), can_go_back=True)
    assert decision.action is Action.STOP
    assert decision.reason == "every host of the wave failed (gpu-0, gpu-1)"


def test_a_gate_that_fails_brings_the_wave_back() -> None:
    failing = verdict(GATE, [3.0])
    decision = decide(ORDER, outcomes(DONE), [failing], can_go_back=True)
    assert decision.action is Action.ROLL_BACK
    assert decision.reason == "restarts: chat at fra1: 3, and at most 1"


@given(
    st.lists(st.sampled_from(HostState), min_size=1, max_size=12),
    st.integers(0, 3),
    st.booleans(),
)
def test_only_hosts_that_were_patched_go_back_and_only_lost_ones_are_quarantined(
    states: list[HostState],
    allowed: int,
    can_go_back: bool,  # noqa: FBT001 - drawn
) -> None:
    order = ORDER.model_copy(update={"failures_allowed": allowed})
    found = outcomes(*states)
    decision = decide(order, found, can_go_back=can_go_back)
    by_name = {outcome.host: outcome.state for outcome in found}
    assert all(by_name[host] is DONE for host in decision.roll_back)
    assert can_go_back or not decision.roll_back
    assert {by_name[host] for host in decision.quarantine} <= {LOST, HostState.PENDING}
    assert bool(decision.reason) == (decision.action is not Action.GO_ON)


def test_a_gate_holds_by_the_worst_of_its_series() -> None:
    assert verdict(GATE, [0.0, 1.0]).holds
    assert not verdict(GATE, [0.0, 1.5]).holds


def test_no_series_fails_a_gate_only_where_it_is_required() -> None:
    assert verdict(GATE, []).reason == "restarts: chat: nobody tells it at fra1"
    assert verdict(GATE.model_copy(update={"required": False}), []).holds


def test_gates_watch_the_patched_pools_and_their_use_cases_alone() -> None:
    found = gates_of(SAMPLE, ["fra1"], ["chat"])
    assert {gate.site for gate in found} == {"fra1"}
    named = [gate.name for gate in found]
    assert "replicas ready: chat" in named
    assert "new fatal XIDs" in named
    assert {name for name in named if name.startswith("budget burn")} == {
        f"budget burn: {use_case} {slo}"
        for use_case in ("support-chat", "agent-assist")
        for slo in ("latency", "ttft", "errors", "availability")
    }
    assert not any("code" in gate.query for gate in found)


def test_replicas_may_be_missing_down_to_the_minimum_and_not_below() -> None:
    (ready,) = [g for g in gates_of(SAMPLE, ["fra1"], ["chat"]) if g.name.startswith("replicas")]
    # Ten replicas, min_available 0.8.
    assert ready.at_most == 2
    assert ready.required


def test_restarts_are_told_by_the_agent_or_by_kube_state_metrics() -> None:
    for fleet, series in (
        (SAMPLE, "gpufleet_agent_restarts_total"),
        (on_clusters(SAMPLE), "kube_pod_container_status_restarts_total"),
    ):
        (gate,) = [g for g in gates_of(fleet, ["fra1"], ["chat"]) if g.name.startswith("restarts")]
        assert series in gate.query


def test_promises_are_asked_where_the_gateway_is_watched() -> None:
    burns = [g for g in gates_of(SAMPLE, ["dub1"], ["chat"]) if g.name.startswith("budget")]
    assert {gate.site for gate in burns} == {"fra1"}
    apart = on_clusters(SAMPLE)
    burns = [g for g in gates_of(apart, ["dub1"], ["chat"]) if g.name.startswith("budget")]
    assert {gate.site for gate in burns} == {"dub1"}


def test_without_a_history_a_batch_takes_what_its_steps_may_take() -> None:
    first = durations.first_estimate_s(Part.DRIVER)
    assert durations.batch_s(Part.DRIVER, []) == first
    assert durations.batch_s(Part.DRIVER, [first + 60]) == first + 60
    assert durations.batch_s(Part.CONTAINERD, []) < first


@pytest.mark.parametrize(
    ("step", "role", "limit", "share"),
    [
        ("drain", "node_drain", "node_drain_timeout_s", 1),
        ("stop clients", "gpu_clients", "gpu_clients_timeout_s", 1),
        ("packages", "gpu_driver", "gpu_driver_install_timeout_s", 0.25),
        ("packages", "runtime", "runtime_install_timeout_s", 0.25),
        ("firmware", "gpu_firmware", "gpu_firmware_within_s", 1),
        ("validate", "gpu_validate", "gpu_validate_diagnostics_timeout_s", 1),
    ],
)
def test_first_estimates_follow_from_the_limits_of_the_roles(
    step: str, role: str, limit: str, share: float
) -> None:
    defaults = PROJECT_ROOT / "playbooks" / "roles" / role / "defaults" / "main.yml"
    assert durations.STEPS_S[step] == share * yaml.safe_load(defaults.read_text())[limit]


@given(st.lists(st.floats(1, 1e5), min_size=durations.MIN_HISTORY, max_size=200))
def test_with_a_history_95_of_100_batches_are_within_the_estimate(history_s: list[float]) -> None:
    estimate = durations.batch_s(Part.DRIVER, history_s)
    assert sum(each <= estimate for each in history_s) >= 0.95 * len(history_s)
    assert estimate in history_s


def test_the_way_back_takes_as_long_as_a_batch_until_one_was_seen() -> None:
    assert durations.rollback_s([], can_go_back=True, batch_s=700) == 700
    assert durations.rollback_s([50, 60, 70], can_go_back=True, batch_s=700) == 70
    assert durations.rollback_s([], can_go_back=False, batch_s=700) == durations.QUARANTINE_S
