"""Patches with small playbooks: waves, stops, ways back, pauses, freezes, other operators."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.contract.patch_runs import (  # noqa: F401 - a fixture
    HOSTS,
    Alone,
    Flow,
    fault,
    first_wave,
    skip_soak,
    states,
    steps,
    told,
    write_calendar,
)
from tests.contract.patch_site import (
    NEW,
    OLD,
    Site,
    did,
    ground_in,
    order,
    unproven,
    versions,
    write_playbooks,
    write_site,
)

from gpufleet.core.freeze import Purpose
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.durable import Run
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import openings, plan_patch, purpose_of
from gpufleet.flows.patch_requests import go_on, pause, plan_back, request_patch, stop
from gpufleet.spec.errors import BadInput, PolicyRefused, Retryable, TargetMissed
from gpufleet.spec.patching import HostState
from gpufleet.spec.records import Claim

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Fleet file and playbooks of four hosts in two racks; afterwards none serves unproven."""
    write_site(tmp_path)
    yield tmp_path
    assert unproven(tmp_path) == {}


@pytest.fixture
def site() -> Iterator[Site]:
    """Its cluster and its Prometheus."""
    made = Site(HOSTS)
    yield made
    made.stop()


@pytest.fixture
def ground(folder: Path, site: Site) -> Iterator[Ground]:
    """The environment."""
    made = ground_in(folder)
    site.place(made)
    yield made
    made.close()


def journal(ground: Ground) -> list[str]:
    return [record.event for record in ground.journal.records()]


def test_a_patch_goes_wave_after_wave_to_every_host(ground: Ground, folder: Path) -> None:
    plan = plan_patch(ground, order(why="CVE", advisories=[{"id": "CVE-2026-1"}]))
    assert [len(wave.hosts) for wave in plan.waves] == [1, 1, 1, 1]
    flow = Flow(ground, plan)
    report = flow.end()
    assert flow.error is None
    assert report.outcome == "done"
    assert set(states(report).values()) == {HostState.DONE}
    assert [host for _, host, _ in did(folder)] == [
        host for wave in plan.waves for host in wave.hosts
    ]
    assert set(versions(folder).values()) == {NEW}
    assert {(each.before, each.after) for each in report.hosts.values()} == {(OLD, NEW)}
    assert [wave.gates[0]["name"] for wave in report.waves] == ["replicas ready: answers"] * 4
    assert journal(ground)[0] == "patch.requested"
    assert journal(ground)[-1] == "patch.ended"
    assert ground.leases.held() == []
    # Every host was seen with it: there is nothing left to plan.
    assert plan_patch(ground, order()).hosts == {}


def test_a_quarantined_host_is_left_out_and_stops_no_later_patch(ground: Ground) -> None:
    ground.hosts.keep(HOSTS[0], "quarantined", reason="XID 79 twice", flow="hand-1")
    plan = plan_patch(ground, order())
    assert "XID 79 twice" in plan.left_out[HOSTS[0]]
    assert sorted(plan.hosts) == HOSTS[1:]
    assert all(HOSTS[0] not in wave.hosts for wave in plan.waves)
    ground.hosts.keep(HOSTS[0], "in-service", reason="board replaced", flow="hand-2")
    assert sorted(plan_patch(ground, order()).hosts) == HOSTS


def test_a_node_that_a_person_has_cordoned_is_left_out(ground: Ground, site: Site) -> None:
    site.cordoned.add(HOSTS[1])
    plan = plan_patch(ground, order())
    assert "cordoned by somebody" in plan.left_out[HOSTS[1]]
    assert sorted(plan.hosts) == [HOSTS[0], *HOSTS[2:]]


def test_a_version_that_breaks_is_rolled_back_and_nothing_more_is_patched(
    ground: Ground, folder: Path
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    fault(folder, canary, "breaks")
    flow = Flow(ground, plan)
    report = flow.end()
    assert isinstance(flow.error, TargetMissed)
    assert "nvidia-smi has failed" in str(flow.error)
    assert report.outcome == "rolled-back"
    assert states(report) == {canary: HostState.ROLLED_BACK}
    assert versions(folder) == dict.fromkeys(HOSTS, OLD)
    assert did(folder) == [("change", canary, NEW), ("rollback", canary, OLD)]
    assert "patch.rollback" in journal(ground)


def test_a_host_that_cannot_go_back_is_quarantined(ground: Ground, folder: Path) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    fault(folder, canary, "breaks")
    fault(folder, canary, "breaks", OLD)
    report = Flow(ground, plan).end()
    assert states(report) == {canary: HostState.QUARANTINED}
    assert "it could not go back" in report.hosts[canary].error
    # The playbook that brings it back has seen to that itself.
    assert [purpose for purpose, _, _ in did(folder)] == ["change", "rollback"]


def test_a_host_that_does_not_answer_is_quarantined(ground: Ground, folder: Path) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    write_playbooks(folder, HOSTS, away=(canary,))
    report = Flow(ground, plan).end()
    assert states(report) == {canary: HostState.QUARANTINED}
    assert report.outcome == "stopped"
    assert did(folder) == [("quarantine", canary, NEW)]


def test_a_step_that_has_worked_for_an_hour_is_tried_again_all_the_same(ground: Ground) -> None:
    late = timedelta()
    tries = []

    def work() -> str:
        nonlocal late
        tries.append("installing")
        if len(tries) == 1:
            late = timedelta(hours=1)
            raise Retryable("the database does not answer")
        return "done"

    later = replace(ground, clock=lambda: datetime.now(UTC) + late)
    run = Run(later, "patch-1", "mara", Alone())  # type: ignore[arg-type]
    assert run.step("batch", work) == "done"


def test_failures_that_are_allowed_do_not_stop_a_wave(ground: Ground, folder: Path) -> None:
    # The last wave has more than one host: a share of one goes first.
    asked = order(canary_share=0, early_share=0, failures_allowed=1)
    plan = plan_patch(ground, asked)
    assert [len(wave.hosts) for wave in plan.waves] == [1, 3]
    bad = plan.waves[1].hosts[0]
    fault(folder, bad, "breaks")
    report = Flow(ground, plan).end()
    assert report.outcome == "done"
    others = dict.fromkeys(HOSTS, HostState.DONE)
    assert states(report) == {**others, bad: HostState.ROLLED_BACK}


def test_a_gate_that_fails_rolls_its_wave_back_and_leaves_earlier_ones(
    ground: Ground, site: Site, folder: Path, until: Until
) -> None:
    plan = plan_patch(ground, order(soak_s=600))
    canary, second = plan.waves[0].hosts[0], plan.waves[1].hosts[0]
    flow = Flow(ground, plan)
    until(lambda: told(ground, "wave 1: soak"), 120)
    skip_soak(ground)
    until(lambda: len(did(folder)) > 1, 120)
    site.missing = 5
    report = flow.end()
    assert isinstance(flow.error, TargetMissed)
    assert report.outcome == "rolled-back"
    assert states(report) == {canary: HostState.DONE, second: HostState.ROLLED_BACK}
    assert versions(folder)[canary] == NEW
    assert "replicas ready: answers" in report.waves[1].stopped_by
    assert report.waves[1].gates[0]["value"] == 5


def test_a_soak_waits_while_prometheus_is_away(
    ground: Ground, site: Site, folder: Path, until: Until
) -> None:
    plan = plan_patch(ground, order(node_groups=["h100"]))
    flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
    until(lambda: did(folder))
    site.down = True
    until(lambda: told(ground, "wave 1: soak"), 120)
    assert flow.result is None
    site.down = False
    assert flow.end().outcome == "done"


def test_a_paused_patch_ends_its_batch_and_holds(
    ground: Ground, folder: Path, until: Until
) -> None:
    plan = plan_patch(ground, order())
    waits = fault(folder, plan.waves[0].hosts[0], "waits")
    flow = Flow(ground, plan)
    until(lambda: did(folder), 120)
    assert states(flow.report) == {plan.waves[0].hosts[0]: HostState.RUNNING}
    pause(ground, flow.id)
    waits.unlink()
    until(lambda: flow.report.outcome == "paused", 120)
    assert len(did(folder)) == 1
    assert states(flow.report) == {plan.waves[0].hosts[0]: HostState.DONE}
    # What is urgent need not wait for it.
    until(lambda: ground.leases.held() == [])
    go_on(ground, flow.id)
    report = flow.end()
    assert report.outcome == "done"
    [held] = report.held
    assert held.startswith("window: wave 2 batch 1: paused by ")
    assert " until " in held
    assert {"patch.paused", "patch.resumed"} <= set(journal(ground))


def test_a_stopped_patch_rolls_back_the_wave_that_runs(ground: Ground, until: Until) -> None:
    plan = plan_patch(ground, order(soak_s=600))
    canary = plan.waves[0].hosts[0]
    flow = Flow(ground, plan)
    until(lambda: told(ground, "wave 1: soak"), 120)
    stop(ground, flow.id)
    report = flow.end()
    assert report.outcome == "rolled-back"
    assert states(report) == {canary: HostState.ROLLED_BACK}
    assert report.waves[0].stopped_by.startswith("stopped by ")
    with pytest.raises(BadInput, match="has ended"):
        stop(ground, flow.id)


def test_a_freeze_that_begins_during_a_wave_lets_what_runs_end_and_starts_nothing(
    tmp_path: Path, until: Until
) -> None:
    file = write_site(
        tmp_path,
        governance={"calendar_required": True},
        freeze_calendars={"company": {"file": "company.ics", "stale_after_s": "2y"}},
    )
    write_calendar(file, begins_in_s=36_000)
    ground = ground_in(tmp_path)
    site = Site(HOSTS)
    site.place(ground)
    try:
        plan = plan_patch(ground, order(canary_share=0, early_share=0))
        assert openings(ground, plan)[0].open
        waits = fault(tmp_path, plan.waves[0].hosts[0], "waits")
        flow = Flow(ground, plan)
        until(lambda: did(tmp_path), 120)
        write_calendar(file, begins_in_s=-60)
        waits.unlink()
        until(lambda: flow.report.held, 120)
        assert states(flow.report) == {plan.waves[0].hosts[0]: HostState.DONE}
        assert "frozen" in flow.report.held[0]
        assert len(did(tmp_path)) == 1
        write_calendar(file, begins_in_s=36_000)
        assert flow.end().outcome == "done"
        assert len(did(tmp_path)) == 4
    finally:
        site.stop()
        ground.close()


def test_a_freeze_holds_no_rollback(tmp_path: Path, until: Until) -> None:
    file = write_site(
        tmp_path,
        governance={"calendar_required": True},
        freeze_calendars={"company": {"file": "company.ics", "stale_after_s": "2y"}},
    )
    write_calendar(file, begins_in_s=36_000)
    ground = ground_in(tmp_path)
    site = Site(HOSTS)
    site.place(ground)
    try:
        plan = plan_patch(ground, order())
        canary = plan.waves[0].hosts[0]
        waits = fault(tmp_path, canary, "waits")
        fault(tmp_path, canary, "breaks")
        flow = Flow(ground, plan)
        until(lambda: did(tmp_path), 120)
        write_calendar(file, begins_in_s=-60)
        (tmp_path / "frozen").touch()
        waits.unlink()
        assert states(flow.end()) == {canary: HostState.ROLLED_BACK}
    finally:
        site.stop()
        ground.close()


def test_a_batch_that_the_guard_refuses_waits_for_the_window_again(
    ground: Ground, folder: Path, until: Until
) -> None:
    (folder / "frozen").touch()
    plan = plan_patch(ground, order())
    flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
    until(lambda: list((ground.state.patches / flow.id).glob("*try-2*")), 120)
    assert did(folder) == []
    (folder / "frozen").unlink()
    report = flow.end()
    assert report.outcome == "done"
    assert states(report) == {plan.waves[0].hosts[0]: HostState.DONE}


def test_of_two_operators_at_once_the_second_waits(
    ground: Ground, folder: Path, until: Until
) -> None:
    theirs = ground.leases.acquire(
        Claim(target="patch:main", owner="patch-0", holder="flow patch-0 for jonas")
    )
    plan = plan_patch(ground, order())
    flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
    asks = "window: wave 1 batch 1"
    until(lambda: "held by flow patch-0 for jonas" in told(ground, asks), 120)
    assert "held by flow patch-0 for jonas" in flow.report.held[0]
    assert did(folder) == []
    ground.leases.release(theirs)
    assert flow.end().outcome == "done"


def test_no_batch_begins_while_the_cluster_does_not_answer(
    ground: Ground, site: Site, folder: Path, until: Until
) -> None:
    plan = plan_patch(ground, order())
    site.stop()
    flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
    until(lambda: told(ground, "window: wave 1 batch 1"), 200)
    assert did(folder) == []
    stop(ground, flow.id)
    assert flow.end().outcome == "not-begun"


def test_a_plan_for_another_fleet_file_is_refused(ground: Ground, folder: Path) -> None:
    plan = plan_patch(ground, order()).model_copy(update={"fleet_digest": f"sha256:{'0' * 64}"})
    flow = Flow(ground, plan)
    assert flow.end().outcome == "failed"
    assert "not the one that was planned" in str(flow.error)
    assert did(folder) == []


def test_an_ended_patch_is_undone_by_a_patch_to_what_its_hosts_had(
    ground: Ground, folder: Path
) -> None:
    asked = order(canary_share=0, early_share=0)
    Flow(ground, plan_patch(ground, asked)).end()
    # Whoever has patched a host since: its version is not this patch's to undo.
    other = HOSTS[3]
    ground.host_versions.saw(other, {"driver": "590.1.1"}, ground.clock(), "patch-0")
    assert plan_back(ground, "patch-1").left_out == {other: "it has 590.1.1 by now"}
    ground.host_versions.saw(other, {"driver": NEW}, ground.clock(), "patch-0")
    back = plan_back(ground, "patch-1")
    assert back.order.version == OLD
    assert purpose_of(back) is Purpose.ROLLBACK
    assert {(each.before, each.after) for each in back.hosts.values()} == {(NEW, OLD)}
    with pytest.raises(BadInput, match="before"):
        plan_back(ground, "patch-1", "1.2.3")
    report = Flow(ground, back, "patch-2").end()
    assert report.outcome == "done"
    assert versions(folder) == dict.fromkeys(HOSTS, OLD)
    # Else a freeze would hold nobody who takes a way back twice.
    with pytest.raises(PolicyRefused, match="a change like any other"):
        plan_back(ground, "patch-2")
    later = replace(ground, clock=lambda: datetime.now(UTC) + timedelta(days=15))
    with pytest.raises(PolicyRefused, match="over 14 days ago"):
        plan_back(later, "patch-1")


def test_a_patch_whose_batches_no_opening_holds_is_refused(ground: Ground, folder: Path) -> None:
    write_site(
        folder,
        freeze_calendars={
            "nights": {"file": "nights.ics", "kind": "maintenance", "stale_after_s": "2y"}
        },
    )
    now = datetime.now(UTC)
    (folder / "fleets" / "nights.ics").write_text(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1@test\r\n"
        f"DTSTAMP:{now:%Y%m%dT%H%M%SZ}\r\nSUMMARY:Night\r\nDTSTART:{now:%Y%m%dT%H%M%SZ}\r\n"
        "DURATION:PT5M\r\nRRULE:FREQ=DAILY\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    narrow = LiveGround(ground).now()
    with pytest.raises(PolicyRefused, match="no opening holds a batch with its way back"):
        request_patch(narrow, plan_patch(narrow, order()), None)
