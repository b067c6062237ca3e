"""Orders from the command line; waits and pages of stories."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.flows.patch_requests import Wish, order_of
from gpufleet.flows.patch_story import held_report
from gpufleet.reports.patch_page import patch_page, timeline
from gpufleet.spec.errors import BadInput
from gpufleet.spec.patching import (
    HostChange,
    HostOutcome,
    HostState,
    PatchOrder,
    PatchPlan,
    PatchReport,
    Wave,
    WaveOutcome,
)

BEGUN = datetime(2026, 3, 1, 10, tzinfo=UTC)


def wish(**values: Any) -> Wish:  # noqa: ANN401 - fields
    given_ = {
        "component": "driver",
        "part": "",
        "version": "580.105.08",
        "sites": "",
        "pools": "",
        "node_groups": "",
        "why": "",
        "advisories": [],
        "soak": "",
        "failures": 0,
    }
    return Wish(**{**given_, **values})


def test_an_order_is_as_it_was_asked_for() -> None:
    order = order_of(
        wish(
            sites="fra0, fra1",
            advisories=["CVE-2026-1:critical,CVE-2026-2", "NV-3:low"],
            soak="30min",
            why="XID 13",
            failures=1,
        )
    )
    assert order.sites == ["fra0", "fra1"]
    assert [(each.id, each.severity) for each in order.advisories] == [
        ("CVE-2026-1", "critical"),
        ("CVE-2026-2", ""),
        ("NV-3", "low"),
    ]
    assert (order.soak_s, order.why, order.failures_allowed) == (1800, "XID 13", 1)
    # It goes through the database as JSON.
    assert PatchOrder.model_validate_json(order.model_dump_json()) == order


def test_a_component_without_a_part_means_its_first() -> None:
    assert order_of(wish(component="firmware", version="1.2")).part == "bmc"
    assert order_of(wish(component="os", part="security", version="all")).part == "security"


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"component": "toaster"}, "--component toaster"),
        ({"part": "bmc"}, "--part bmc"),
        ({"version": ""}, "--to"),
        ({"version": "5 80"}, "--to"),
        ({"soak": "soon"}, "--soak"),
        ({"sites": "fra0,fra0"}, "--site"),
        ({"pools": "Chat!"}, "--pool"),
        ({"failures": -1}, "--failures"),
        ({"why": "x" * 600}, "--why"),
    ],
)
def test_a_wrong_option_is_named(values: dict[str, Any], where: str) -> None:
    with pytest.raises(BadInput) as refused:
        order_of(wish(**values))
    assert refused.value.where == where


def report(**values: Any) -> PatchReport:  # noqa: ANN401 - fields
    order = order_of(wish(why="<script>alert(1)</script>", advisories=["CVE-2026-1:critical"]))
    return PatchReport(flow="patch-1", actor="mara", order=order, begun_at=BEGUN, **values)


def test_a_wait_is_told_once_and_ends_when_it_ends() -> None:
    told = held_report(report(), "window: wave 1", "frozen: Quarter end", "10:00")
    again = held_report(told, "window: wave 1", "frozen: Quarter end", "10:05")
    assert again.held == told.held == ["window: wave 1: frozen: Quarter end; from 10:00"]
    over = held_report(again, "window: wave 1", "", "11:00")
    assert over.held == ["window: wave 1: frozen: Quarter end; from 10:00 until 11:00"]
    assert held_report(over, "window: wave 1", "", "11:01").held == over.held


@given(st.lists(st.sampled_from(["", "frozen: A", "frozen: B", "paused by mara"]), max_size=12))
def test_waits_follow_each_other_and_none_is_lost(whys: list[str]) -> None:
    told = report()
    for minute, why in enumerate(whys):
        told = held_report(told, "window: wave 1", why, f"{minute:02d}")
    changes = [why for index, why in enumerate(whys) if index == 0 or why != whys[index - 1]]
    assert [re.sub(r"; from.*", "", line) for line in told.held] == [
        f"window: wave 1: {why}" for why in changes if why
    ]
    running = [line for line in told.held if " until " not in line]
    assert len(running) == (1 if whys and whys[-1] else 0)
    assert told.outcome == ("paused" if whys and whys[-1].startswith("paused") else "running")


def story() -> tuple[PatchReport, PatchPlan]:
    hosts = ["gpu-001", "gpu-002"]
    outcomes = [
        HostOutcome(host="gpu-001", state=HostState.DONE, before="1", after="2", seconds=60),
        HostOutcome(
            host="gpu-002",
            state=HostState.QUARANTINED,
            before="1",
            seconds=90,
            failed_task="Reboot",
            error="did not come back <b>",
        ),
    ]
    waves = [
        WaveOutcome(
            number=number,
            begun_at=BEGUN + timedelta(minutes=5 * number),
            ended_at=BEGUN + timedelta(minutes=5 * number + 4),
            hosts=[outcome],
            gates=[{"name": "replicas", "value": 1.0, "at_most": 2.0, "reason": ""}],
            stopped_by="1 of 1 hosts failed" if number == 2 else "",
        )
        for number, outcome in enumerate(outcomes, 1)
    ]
    plan = PatchPlan(
        fleet="sample",
        environment="production",
        fleet_digest=f"sha256:{'0' * 64}",
        order=report().order,
        hosts={
            host: HostChange(
                host=host,
                site="main",
                rack="r1",
                node_group="gpu",
                pools=[],
                before="1",
                after="2",
            )
            for host in hosts
        },
        waves=[Wave(number=number, batches=[[host]]) for number, host in enumerate(hosts, 1)],
        gates=[],
        batch_s=60,
        rollback_s=60,
        can_go_back=True,
        left_out={"gpu-003": "it is in no pool"},
    )
    ended = BEGUN + timedelta(minutes=20)
    made = report(waves=waves, ended_at=ended, outcome="stopped", held=["window: wave 2: frozen"])
    return made, plan


def test_a_page_tells_the_story_and_trusts_no_text() -> None:
    told, plan = story()
    page = patch_page(told, plan, BEGUN)
    for text in (
        *("gpu-001", "gpu-002", "quarantined", "Reboot: did not come back &lt;b&gt;"),
        *("mara", "CVE-2026-1 (critical)", "1 of 1 hosts failed", "window: wave 2: frozen"),
        *("gpu-003: it is in no pool", "&lt;script&gt;alert(1)"),
    ):
        assert text in page
    assert "<script" not in page
    assert "http" not in page


def test_a_page_of_a_patch_that_goes_on_ends_now() -> None:
    told, plan = story()
    running = told.model_copy(update={"ended_at": None, "outcome": "running"})
    assert "to now" in patch_page(running, plan, BEGUN + timedelta(minutes=12))


@given(
    st.lists(
        st.tuples(st.integers(-600, 7200), st.floats(0, 1e5)).map(
            lambda pair: WaveOutcome(
                number=1,
                begun_at=BEGUN + timedelta(seconds=pair[0]),
                ended_at=BEGUN,
                hosts=[HostOutcome(host="gpu-001", state=HostState.DONE, seconds=pair[1])],
            )
        ),
        max_size=4,
    ),
    st.integers(-60, 7200),
)
def test_every_bar_is_within_the_timeline(waves: list[WaveOutcome], lasts_s: int) -> None:
    for bar in timeline(waves, BEGUN, BEGUN + timedelta(seconds=lasts_s)):
        assert 0 <= bar.left_percent <= 100
        assert bar.width_percent >= 0
        assert bar.left_percent + bar.width_percent <= 100.02
