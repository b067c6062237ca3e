"""What came of a host: never good without its own validation, never left where nobody knows."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.patching.outcomes import (
    Judged,
    after_recovery,
    gone_back,
    judged,
    merged,
    quarantined,
    recovery,
)
from gpufleet.spec.patching import HostChange, HostOutcome, HostState

OLD, NEW = "580.95.05", "580.105.08"
CHANGE = HostChange(
    host="gpu-001",
    site="main",
    rack="r1",
    node_group="gpu",
    pools=["chat"],
    before=OLD,
    after=NEW,
)


@dataclass
class Told:
    """What a run told of a host."""

    report: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    unreachable: bool = False
    failed_task: str = ""
    error: str = ""
    seconds: float = 12.34


GOOD = {"before": OLD, "after": NEW, "validated": True, "uncordoned": True}
UNTOUCHED = {"before": OLD, "after": OLD, "reason": "no space", "touched": False}
REPORTS = st.fixed_dictionaries(
    {},
    optional={
        "before": st.sampled_from(["", OLD, NEW]),
        "after": st.sampled_from(["", OLD, NEW]),
        "validated": st.booleans(),
        "quarantined": st.booleans(),
        "reason": st.sampled_from(["", "no such package"]),
        "touched": st.booleans(),
        "held": st.booleans(),
        "record_open": st.booleans(),
    },
)
ANYTHING = st.builds(
    Told,
    report=REPORTS,
    failed=st.booleans(),
    unreachable=st.booleans(),
    error=st.sampled_from(["", "timed out"]),
)


@pytest.mark.parametrize(
    ("told", "state", "proven"),
    [
        (Told(GOOD), HostState.DONE, True),
        (Told({**GOOD, "before": NEW}), HostState.UNCHANGED, True),
        (Told({**GOOD, "validated": False}), HostState.FAILED, False),
        (Told({**GOOD, "after": OLD, "reason": "back"}, failed=True), HostState.ROLLED_BACK, True),
        (Told({"before": OLD, "after": OLD, "reason": "blocked"}), HostState.FAILED, False),
        (
            Told({**UNTOUCHED, "record_open": False, "held": False}),
            HostState.FAILED,
            True,
        ),
        (Told({**UNTOUCHED, "record_open": "false", "held": "False"}), HostState.FAILED, True),
        # Half patched by an earlier run; cordoned still; never asked.
        (Told({**UNTOUCHED, "record_open": True, "held": False}), HostState.FAILED, False),
        (Told({**UNTOUCHED, "record_open": False, "held": True}), HostState.FAILED, False),
        (Told({**UNTOUCHED, "record_open": "", "held": False}), HostState.FAILED, False),
        (Told(UNTOUCHED), HostState.FAILED, False),
        (Told({"before": NEW, "after": NEW, "quarantined": True}), HostState.QUARANTINED, False),
        (Told({"before": NEW, "after": NEW, "held": True}), HostState.FAILED, False),
        (Told({"before": NEW, "after": NEW, "record_open": "true"}), HostState.FAILED, False),
        (Told({"reason": "no space", "touched": False}, unreachable=True), HostState.FAILED, False),
        (Told({"before": NEW, "after": NEW, "validated": "False"}), HostState.UNCHANGED, True),
        (Told({"before": OLD, "after": NEW, "validated": "False"}), HostState.FAILED, False),
        (Told({"before": OLD, "after": NEW, "validated": "True"}), HostState.DONE, True),
        (Told({**GOOD, "quarantined": True}), HostState.QUARANTINED, False),
        (Told(GOOD, unreachable=True), HostState.FAILED, False),
        (Told(GOOD, failed=True), HostState.DONE, True),
        (Told(failed=True, error="timed out"), HostState.FAILED, False),
        (Told(), HostState.FAILED, False),
    ],
)
def test_a_host_is_what_its_validation_says(told: Told, state: HostState, *, proven: bool) -> None:
    found = judged(CHANGE, told)
    assert (found.state, found.proven) == (state, proven)
    assert found.outcome.seconds == 12.3


@given(ANYTHING)
def test_no_host_is_good_without_its_validation(told: Told) -> None:
    found = judged(CHANGE, told)
    if found.state in {HostState.DONE, HostState.UNCHANGED}:
        untouched = found.state is HostState.UNCHANGED
        assert told.report.get("validated") or untouched
        assert not untouched or told.report["before"] == told.report["after"]
        assert found.proven
        assert not told.unreachable
        assert not told.report.get("reason")
        assert not told.report.get("quarantined")
        assert found.outcome.error == ""
    else:
        assert found.outcome.error


@given(told=ANYTHING, can_go_back=st.booleans(), stopped=st.booleans())
def test_no_host_stays_where_nobody_knows_how_it_is(
    told: Told, *, can_go_back: bool, stopped: bool
) -> None:
    found = judged(CHANGE, told)
    need = recovery([found], can_go_back=can_go_back, stopped=stopped)
    goes_back = [host for hosts in need.back.values() for host in hosts]
    assert len(goes_back) + len(need.quarantine) <= 1
    if not found.proven and found.state is not HostState.QUARANTINED:
        assert goes_back or need.quarantine
    if found.proven and not stopped:
        assert not need.is_needed
    if not can_go_back or told.unreachable:
        assert not goes_back
    if stopped and can_go_back and found.state is HostState.DONE:
        assert need.back == {found.outcome.before: ["gpu-001"]}


@given(ANYTHING, ANYTHING)
def test_a_host_that_went_back_is_validated_or_is_to_be_quarantined(
    first: Told, second: Told
) -> None:
    after = gone_back(judged(CHANGE, first), second)
    if after.state is HostState.ROLLED_BACK:
        unchanged = second.report.get("before") == second.report.get("after")
        assert second.report.get("validated") or unchanged
        assert not second.report.get("quarantined")
        assert not second.unreachable
        assert after_recovery([after]) == []
    elif after.state is HostState.QUARANTINED:
        assert second.report.get("quarantined")
        assert not after.proven
        assert after_recovery([after]) == []
    elif after.state is HostState.DONE:
        assert second.report["touched"] is second.report["held"] is False
        assert not second.report.get("quarantined")
        assert not second.unreachable
        assert judged(CHANGE, first).state is HostState.DONE
        assert "still validated" in after.outcome.error
        assert after_recovery([after]) == []
    else:
        assert after.state is HostState.FAILED
        assert "it could not go back" in after.outcome.error
        assert after_recovery([after]) == ["gpu-001"]


LEFT_ALONE = {"reason": "a budget allows no eviction", "touched": False, "held": False}


@pytest.mark.parametrize("record_open", [False, ""])
def test_a_validated_host_that_nothing_could_bring_back_stays_in_service(
    record_open: bool | str,  # noqa: FBT001 - as it is told
) -> None:
    told = Told({**LEFT_ALONE, "record_open": record_open}, failed=True)
    after = gone_back(judged(CHANGE, Told(GOOD)), told)
    assert (after.state, after.proven, after.outcome.after) == (HostState.DONE, True, NEW)
    assert after.outcome.error == (
        "could not go back, still validated: a budget allows no eviction"
    )
    assert after_recovery([after]) == []


@pytest.mark.parametrize(
    "told",
    [
        Told({**LEFT_ALONE, "touched": True}),
        Told({**LEFT_ALONE, "held": True}),
        Told({**LEFT_ALONE, "held": ""}),
        Told({**LEFT_ALONE, "record_open": True}),
        Told({**LEFT_ALONE, "quarantined": True}),
        Told(LEFT_ALONE, unreachable=True),
        Told(failed=True),
    ],
)
def test_a_host_that_was_begun_to_go_back_is_not_taken_for_validated(told: Told) -> None:
    after = gone_back(judged(CHANGE, Told(GOOD)), told)
    assert not after.proven


def test_a_host_that_was_never_validated_does_not_stay_where_it_cannot_go_back() -> None:
    failed = judged(CHANGE, Told({**GOOD, "validated": False}))
    assert after_recovery([gone_back(failed, Told(LEFT_ALONE))]) == ["gpu-001"]


@given(told=ANYTHING, failed=st.booleans())
def test_a_quarantined_host_says_so_only_if_it_is(told: Told, *, failed: bool) -> None:
    after = quarantined(judged(CHANGE, told), Told(failed=failed, error="the API is away"))
    assert (after.state is HostState.QUARANTINED) is not failed
    assert not after.proven
    assert ("could not be quarantined" in after.outcome.error) is failed


def test_a_wave_that_was_stopped_goes_back_whole_and_by_version() -> None:
    found = [
        standing("gpu-001", HostState.DONE, OLD),
        standing("gpu-002", HostState.DONE, "580.82.07"),
        standing("gpu-003", HostState.UNCHANGED, NEW),
        standing("gpu-004", HostState.DONE, ""),
    ]
    need = recovery(found, can_go_back=True, stopped=True)
    assert need.back == {OLD: ["gpu-001"], "580.82.07": ["gpu-002"]}
    # Nobody knows what it had, and it is validated: it stays.
    assert need.quarantine == []


def test_validated_hosts_that_cannot_go_back_stay_in_service() -> None:
    found = [standing("gpu-001", HostState.DONE, OLD)]
    assert not recovery(found, can_go_back=False, stopped=True).is_needed


def test_later_outcomes_take_the_place_of_earlier_ones() -> None:
    old = [standing(f"gpu-00{number}", HostState.DONE, OLD) for number in (1, 2)]
    new = standing("gpu-002", HostState.ROLLED_BACK, OLD)
    assert merged(old, [new]) == [old[0], new]


def standing(host: str, state: HostState, before: str) -> Judged:
    return Judged(outcome=HostOutcome(host=host, state=state, before=before), proven=True)
