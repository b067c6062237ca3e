"""Which overrides lift which refusal, which of them count, and which may be asked for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.approvals import digest_of, needed_for
from gpufleet.core.freeze import Cause, Decision, decide, refusal_of_update
from gpufleet.core.overrides import (
    Judge,
    Target,
    demand_valid,
    in_force,
    judged,
    lifted,
    misfit,
    open_until,
    scope_of,
)
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.approvals import Action, Approval, ApprovalRequest
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import Governance
from gpufleet.spec.overrides import Override, OverrideEvidence, OverrideState
from gpufleet.spec.windows import Calendar, ChangeKind, Window, WindowKind

FLEET = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DRIVER = Target("fra1", ChangeKind.DRIVER, ("chat",))
SPANS = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda span: (span[0], sum(span)))


def override(
    begins: datetime = NOON,
    ends: datetime = NOON + HOUR,
    **scope: Any,  # noqa: ANN401 - fields of several types
) -> Override:
    given_ = {
        "sites": ["fra1"],
        "changes": [ChangeKind.DRIVER],
        "why": "mends CVE-2026-1234",
        "requester": "jonas",
        **scope,
    }
    return Override.model_validate(
        {"id": "override-1", "begins_at": begins, "ends_at": ends, **given_}
    )


def hours(*spans: tuple[int, int]) -> list[Override]:
    return [override(START + begin * HOUR, START + end * HOUR) for begin, end in spans]


def judge(*windows: Window, problem: str = "") -> Judge:
    calendar = Calendar("company", windows, problem)
    return lambda at, needs: decide([calendar], at, needs=needs)


def blackouts(*spans: tuple[int, int]) -> Judge:
    return judge(
        *(Window("freeze", START + begin * HOUR, START + end * HOUR) for begin, end in spans)
    )


@settings(max_examples=500)
@given(
    frozen=st.lists(SPANS, max_size=5),
    lifted_=st.lists(SPANS, max_size=4),
    now=st.integers(0, 60),
    takes=st.integers(0, 20),
)
def test_admitted_is_what_is_open_or_lifted_in_every_hour_that_it_takes(
    frozen: list[tuple[int, int]], lifted_: list[tuple[int, int]], now: int, takes: int
) -> None:
    def holds(spans: list[tuple[int, int]], hour: int) -> bool:
        return any(begin <= hour < end for begin, end in spans)

    needed = range(now, now + max(takes, 1))
    expected = all(not holds(frozen, hour) or holds(lifted_, hour) for hour in needed)
    decision = lifted(blackouts(*frozen), hours(*lifted_), DRIVER, START + now * HOUR, takes * HOUR)
    assert decision.admitted is expected
    if expected and any(holds(frozen, hour) for hour in needed):
        assert decision.overrides
    if decision.opens is not None:
        begins = round((decision.opens - START) / HOUR)
        later = range(begins, begins + max(takes, 1))
        assert begins > now
        assert all(not holds(frozen, hour) or holds(lifted_, hour) for hour in later)


def test_a_short_override_within_a_long_one_takes_nothing_away() -> None:
    overrides = hours((0, 10), (2, 3))
    assert lifted(blackouts((0, 20)), overrides, DRIVER, START, 8 * HOUR).admitted


def test_an_override_lifts_a_calendar_that_cannot_be_read_and_a_closed_maintenance_window() -> None:
    held = [override()]
    assert lifted(judge(problem="lost"), held, DRIVER, NOON).admitted
    later = Window("w", NOON + 5 * HOUR, NOON + 6 * HOUR, kind=WindowKind.MAINTENANCE)
    calendar = Calendar("patching", (later,), maintained=(later.scope,))
    closed: Judge = lambda at, needs: decide([calendar], at, needs=needs)  # noqa: E731 - a table's entry
    assert not closed(NOON, timedelta()).admitted
    assert lifted(closed, held, DRIVER, NOON).admitted


def test_a_change_that_outlasts_its_override_is_refused_with_its_end() -> None:
    frozen = judge(Window("Quarter end", NOON - HOUR, NOON + 9 * HOUR))
    decision = lifted(frozen, [override()], DRIVER, NOON, 2 * HOUR)
    assert not decision.admitted
    assert "override override-1 does not lift it: it ends 2026-03-01 13:00 UTC" in decision.reason


def test_an_override_of_another_scope_is_named_in_the_refusal() -> None:
    frozen = judge(Window("Quarter end", NOON - HOUR, NOON + 9 * HOUR))
    decision = lifted(frozen, [override(pools=["mail"])], DRIVER, NOON)
    assert not decision.admitted
    assert "freeze `Quarter end`; override override-1 does not lift it: it is for pools mail" in (
        decision.reason
    )


def test_an_override_that_begins_tonight_is_the_next_opening() -> None:
    frozen = judge(Window("Quarter end", NOON - HOUR, NOON + 90 * HOUR))
    tonight = override(NOON + 8 * HOUR, NOON + 10 * HOUR)
    assert lifted(frozen, [tonight], DRIVER, NOON).opens == NOON + 8 * HOUR


@pytest.mark.parametrize(
    ("scope", "target", "fits"),
    [
        ({}, DRIVER, True),
        ({"sites": ["dub1"]}, DRIVER, False),
        ({"changes": [ChangeKind.STACKS, ChangeKind.FIRMWARE]}, DRIVER, False),
        ({"pools": ["chat"]}, DRIVER, True),
        ({"pools": ["chat"]}, Target("fra1", ChangeKind.DRIVER), False),
        ({"pools": ["chat"]}, Target("fra1", ChangeKind.DRIVER, ("chat", "mail")), False),
        ({"pools": ["chat", "mail"]}, Target("fra1", ChangeKind.DRIVER, ("chat", "mail")), True),
        ({"node_groups": ["fra1-chat"]}, DRIVER, False),
        (
            {"node_groups": ["fra1-chat"]},
            Target("fra1", ChangeKind.DRIVER, ("chat",), ("fra1-chat",)),
            True,
        ),
        ({"flow": "patch-1"}, DRIVER, False),
        ({"flow": "patch-1"}, Target("fra1", ChangeKind.DRIVER, flow="patch-2"), False),
        ({"flow": "patch-1"}, Target("fra1", ChangeKind.DRIVER, flow="patch-1"), True),
    ],
)
def test_an_override_holds_only_for_what_lies_in_its_scope(
    scope: dict[str, Any], target: Target, *, fits: bool
) -> None:
    assert (misfit(override(**scope), target) == "") is fits


@pytest.mark.parametrize(
    ("frozen", "held", "expected"),
    [
        # Nothing ends within the time.
        ([], [], 90),
        ([(-60, 600)], [(-60, 120)], 90),
        # A freeze begins, or an override ends.
        ([(45, 600)], [], 45),
        ([(-60, 600)], [(-60, 30)], 30),
    ],
)
def test_an_open_answer_is_known_until_the_opening_or_its_override_ends(
    frozen: list[tuple[int, int]], held: list[tuple[int, int]], expected: int
) -> None:
    def at(seconds: int) -> datetime:
        return NOON + timedelta(seconds=seconds)

    windows = judge(*(Window("w", at(begin), at(end)) for begin, end in frozen))
    overrides = [override(at(begin), at(end)) for begin, end in held]
    soon = lifted(windows, overrides, DRIVER, NOON, timedelta(seconds=90))
    assert open_until(soon, overrides, NOON, at(90)) == at(expected)


def evidence(
    of: Override | None = None,
    **changed: Any,  # noqa: ANN401 - as above
) -> OverrideEvidence:
    """An override that jonas asks for and mara has signed, but for what is given."""
    asked = of or override()
    request = ApprovalRequest(
        id=asked.id,
        scope=scope_of(asked, FLEET),
        plan_digest=digest_of(asked),
        requester="jonas",
        requested_at=NOON,
        expires_at=asked.ends_at,
    )
    signer = str(changed.pop("signer", "mara"))
    request = request.model_copy(update=changed.pop("request", {}))
    approval = Approval(
        request=request.id,
        scope=request.scope,
        plan_digest=request.plan_digest,
        signer=signer,
        signed_at=NOON,
        expires_at=request.expires_at,
    )
    found = OverrideEvidence(
        override=asked, request=request, is_request_signed=True, approvals=[approval]
    )
    return found.model_copy(update=changed)


@pytest.mark.parametrize(
    ("found", "state", "why"),
    [
        (evidence(), OverrideState.ACTIVE, ""),
        (evidence(approvals=[]), OverrideState.ASKED, "0 of 1 approvals"),
        (evidence(signer="jonas"), OverrideState.ASKED, "of their own"),
        (evidence(override(NOON + HOUR, NOON + 2 * HOUR)), OverrideState.GRANTED, "not begun"),
        (evidence(override(NOON - HOUR, NOON)), OverrideState.ENDED, "over"),
        (
            evidence(revoked_at=NOON, revoked_by="eve"),
            OverrideState.REVOKED,
            "revoked by eve",
        ),
        (evidence(is_request_signed=False), OverrideState.INVALID, "not signed by a declared key"),
        (
            evidence(request={"plan_digest": f"sha256:{'1' * 64}"}),
            OverrideState.INVALID,
            "something else",
        ),
        (evidence(request={"requester": "eve"}), OverrideState.INVALID, "something else"),
        (
            evidence(override=override(pools=["chat"])),
            OverrideState.INVALID,
            "something else",
        ),
        (
            evidence(override(NOON, NOON + timedelta(hours=5))),
            OverrideState.INVALID,
            "longer than governance.override_max_s allows",
        ),
    ],
)
def test_an_override_counts_only_as_it_was_signed_by_another(
    found: OverrideEvidence, state: OverrideState, why: str
) -> None:
    row = judged(found, FLEET, NOON)
    assert row.state is state
    assert why in row.why_not
    in_ = state in {OverrideState.ACTIVE, OverrideState.GRANTED}
    assert bool(in_force([found], FLEET, NOON)) is in_


def test_who_had_signed_is_known_after_its_end_too() -> None:
    row = judged(evidence(), FLEET, NOON + 10 * HOUR)
    assert row.state is OverrideState.ENDED
    assert row.approved_by == ["mara"]


def test_an_override_always_needs_a_second_identity() -> None:
    assert needed_for(Action.OVERRIDE, Governance()) == 1
    assert needed_for(Action.CHANGE, Governance()) == 0


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (override(sites=["nowhere"]), "--sites"),
        (override(pools=["nothing"]), "--pools"),
        (override(node_groups=["nothing"]), "--node-groups"),
        (override(NOON - 2 * HOUR, NOON), "--begins"),
        (override(NOON + HOUR, NOON), "--begins"),
        (override(NOON + timedelta(days=8), NOON + timedelta(days=8, hours=1)), "--begins"),
        (override(NOON, NOON + timedelta(hours=5)), "--hours"),
    ],
)
def test_what_could_never_hold_is_not_asked_for(asked: Override, where: str) -> None:
    with pytest.raises(BadInput) as caught:
        demand_valid(asked, FLEET, NOON)
    assert caught.value.where == where
    assert caught.value.exit_code == 2


def test_a_refused_update_says_how_it_can_wait() -> None:
    window = Window("Quarter end", NOON, NOON + HOUR)
    refused = Decision(
        admitted=False, reason="freeze", window=window, opens=window.end, cause=Cause.BLACKOUT
    )
    error = refusal_of_update("fra1", refused)
    assert error.exit_code == 3
    assert "the next opening is 2026-03-01 13:00 UTC" in error.mend
    assert "./fleet change --apply" in error.mend
