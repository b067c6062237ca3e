"""What a cluster is told of freezes, and what its policies are made of."""

from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.core import admission, freeze_admission
from gpufleet.core import vocabulary as names
from gpufleet.core.freeze import Decision, Subject, decide
from gpufleet.core.freeze_state import (
    KNOWN_FOR,
    NO_POOL,
    OPEN,
    SEEN,
    FreezeState,
    key_of,
    pools_named,
    state_of,
)
from gpufleet.core.overrides import Target, lifted, open_until
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.overrides import Override
from gpufleet.spec.windows import Calendar, ChangeKind, Scope, Window, WindowKind

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def told(*windows: tuple[timedelta, timedelta], problem: str = "") -> FreezeState:
    calendar = Calendar(
        "company",
        tuple(Window("quarter end", NOW + start, NOW + end) for start, end in windows),
        problem,
    )
    return answers([calendar], [])


def answers(calendars: list[Calendar], overrides: list[Override]) -> FreezeState:
    """What the worker works out for one site."""
    decided = {}
    for change in SEEN:
        for pool in ("", *pools_named(calendars, overrides)):
            target = Target("fra1", change, (pool or NO_POOL,))
            subject = Subject("production", "fra1", target.pools, change)

            def judge(at: datetime, needs: timedelta, subject: Subject = subject) -> Decision:
                return decide(calendars, at, needs=needs, subject=subject)

            soon = lifted(judge, overrides, target, NOW, KNOWN_FOR)
            until = open_until(soon, overrides, NOW, NOW + KNOWN_FOR)
            decided[key_of(change, pool)] = (lifted(judge, overrides, target, NOW), until)
    return state_of("fra1", decided, NOW)


def shut(state: FreezeState) -> set[str]:
    return {key for key, answer in state.answers.items() if answer != OPEN}


def test_an_open_cluster_knows_so_for_a_while() -> None:
    found = told((timedelta(days=1), timedelta(days=2)))
    assert found == FreezeState(
        {"stacks": OPEN, "release": OPEN, "all": OPEN}, known_until=NOW + KNOWN_FOR
    )
    assert found.message == OPEN


DAY = timedelta(days=1)


def scoped(kind: WindowKind = WindowKind.BLACKOUT, **scope: frozenset[str]) -> Calendar:
    window = Window("quarter end", NOW - DAY, NOW + DAY, kind=kind, scope=Scope(**scope))  # type: ignore[arg-type]
    return Calendar("company", (window,))


@pytest.mark.parametrize(
    ("calendar", "expected"),
    [
        (scoped(), {"stacks", "release", "all"}),
        (scoped(pools=frozenset({"chat"})), {"stacks.chat", "release.chat", "all"}),
        (scoped(changes=frozenset({ChangeKind.RELEASE})), {"release", "all"}),
        (
            scoped(pools=frozenset({"chat"}), changes=frozenset({ChangeKind.STACKS})),
            {"stacks.chat", "all"},
        ),
        (scoped(sites=frozenset({"dub1"})), set()),
        (scoped(changes=frozenset({ChangeKind.DRIVER})), set()),
    ],
)
def test_a_scoped_freeze_shuts_what_belongs_to_it_alone(
    calendar: Calendar, expected: set[str]
) -> None:
    assert shut(answers([calendar], [])) == expected


def test_an_override_opens_its_scope_alone_and_no_longer_than_it_holds() -> None:
    override = Override(
        id="override-1",
        sites=["fra1"],
        changes=[ChangeKind.RELEASE],
        pools=["chat"],
        why="mends it",
        requester="jonas",
        begins_at=NOW - DAY,
        ends_at=NOW + timedelta(seconds=40),
    )
    found = answers([scoped()], [override])
    assert shut(found) == {"stacks", "release", "stacks.chat", "all"}
    assert found.frozen
    assert found.known_until == NOW + timedelta(seconds=40)


def test_a_partly_frozen_cluster_says_what_is_not_open() -> None:
    found = answers([scoped(pools=frozenset({"chat"}))], [])
    assert not found.frozen
    assert found.message == "open, but not for release.chat, stacks.chat"


@pytest.mark.parametrize("seconds", [1, 45, 89])
def test_what_is_known_of_an_open_cluster_ends_when_a_window_starts(seconds: int) -> None:
    found = told((timedelta(seconds=seconds), timedelta(days=2)))
    assert not found.frozen
    assert found.known_until == NOW + timedelta(seconds=seconds)


def test_a_frozen_cluster_is_told_the_window_and_the_next_opening() -> None:
    found = told((timedelta(hours=-1), timedelta(hours=2)))
    assert found.frozen
    assert "freeze `quarter end` (2026-03-01 11:00 UTC to 2026-03-01 14:00 UTC)" in found.message
    assert "the next opening is 2026-03-01 14:00 UTC" in found.message


def test_a_calendar_that_cannot_be_read_freezes_the_cluster() -> None:
    found = told(problem="company.ics cannot be read")
    assert found.frozen
    assert "company.ics cannot be read" in found.message


def test_every_policy_fails_closed_and_is_bound_once() -> None:
    made = [
        *admission.policies(),
        *freeze_admission.policies(),
        *freeze_admission.clock_policies(),
    ]
    policies = [each for each in made if each["kind"] == "ValidatingAdmissionPolicy"]
    bindings = [each for each in made if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert [each["metadata"]["name"] for each in policies] == [
        each["spec"]["policyName"] for each in bindings
    ]
    for policy, binding in zip(policies, bindings, strict=True):
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert binding["spec"]["validationActions"] == ["Deny"]
        if "paramKind" in policy["spec"]:
            assert binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Deny"


def test_policies_hold_in_our_namespaces_and_in_no_others() -> None:
    for policy in [*admission.policies(), *freeze_admission.policies()]:
        if policy["kind"] != "ValidatingAdmissionPolicy":
            continue
        constraints = policy["spec"]["matchConstraints"]
        if "namespaceSelector" not in constraints:
            # They are in no namespace.
            assert [each["resources"] for each in constraints["resourceRules"]] == [
                ["persistentvolumes"]
            ]
            continue
        [rule] = constraints["namespaceSelector"]["matchExpressions"]
        assert rule["key"] == "kubernetes.io/metadata.name"
        assert set(rule["values"]) <= set(names.GOVERNED_NAMESPACES)


def test_what_is_allowed_is_what_the_fleet_file_declares() -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets" / "sample" / "production.yaml")
    data = admission.parameters(fleet)["data"]
    assert data["images"].split("\n") == [
        "docker.io/vllm/vllm-openai@",
        "ghcr.io/gpufleet/gpufleet@",
    ]
    assert set(data["digests"].split("\n")) == {model.digest for model in fleet.models.values()}
    assert "fra1-chat" in data["node-groups.interactive"].split("\n")
    assert "fra1-chat" not in data["node-groups.batch"].split("\n")
    assert "dub1-mail" in data["node-groups.batch"].split("\n")


def test_the_accounts_have_no_right_to_secrets_or_to_policies() -> None:
    for thing in freeze_admission.service_accounts():
        for rule in thing.get("rules", []):
            assert "secrets" not in rule["resources"]
            assert "admissionregistration.k8s.io" not in rule["apiGroups"]
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
