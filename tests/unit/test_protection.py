"""Protected sets: no secret in clear, a newer format, locks, and names of stacks."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import small_fleet

from gpufleet.core.protection import (
    ELSEWHERE,
    age_of,
    decode,
    encode,
    plain_secrets,
    pointers,
    tightest_rpo,
)
from gpufleet.core.snapshots.retention import lock_for
from gpufleet.edges.stack_states import Stack
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import SnapshotRetention
from gpufleet.spec.protection import DatabaseKind, Part, PartFacts, ProtectedSet

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARK = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
SEALED = {**MARK, "ciphertext": "v1:abc"}
PLAIN = {**MARK, "plaintext": '"hush"'}
SET = ProtectedSet(
    fleet="f",
    environment="e",
    at=NOON,
    database=DatabaseKind.SQLITE,
    fleet_file="e.yaml",
    tool="gpufleet 0.1.0",
    parts=[PartFacts(part=Part.FLEET, at=NOON, files=1, size_bytes=2)],
    elsewhere=list(ELSEWHERE),
)


def nested(leaf: object) -> st.SearchStrategy[object]:
    return st.recursive(
        st.just(leaf),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.dictionaries(st.text(max_size=4), inner, min_size=1, max_size=3),
        ),
        max_leaves=4,
    )


@given(nested(PLAIN), nested(SEALED))
def test_a_secret_in_clear_is_found_however_deep_it_lies(plain: object, good: object) -> None:
    resources = [{"urn": "good", "outputs": {"x": good}}, {"urn": "bad", "inputs": {"x": plain}}]
    assert plain_secrets({"checkpoint": {"latest": {"resources": resources}}}) == ["bad"]


def test_a_state_without_resources_has_no_secret() -> None:
    for state in ({}, {"checkpoint": None}, {"checkpoint": {"latest": {"resources": None}}}):
        assert plain_secrets(state) == []


def test_a_set_says_what_it_was_told() -> None:
    assert decode(encode(SET), where="here") == SET


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"format": 2}).encode(), "format 2"),
        (json.dumps({"format": 1}).encode(), "not as it was written"),
        (b"{", "not as it was written"),
        (b"[]", "not as it was written"),
        (encode(SET).replace(b'"format": 1', b'"format": true'), "not as it was written"),
    ],
)
def test_what_is_no_set_or_a_newer_one_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        decode(content, where="here")


def test_only_the_first_set_of_a_day_is_locked_for_long() -> None:
    policy = SnapshotRetention(daily=7)
    yesterday, earlier = NOON - timedelta(days=1), NOON - timedelta(hours=1)
    assert lock_for(policy, None, NOON) == timedelta(days=7)
    assert lock_for(policy, yesterday, NOON) == timedelta(days=7)
    assert lock_for(policy, earlier, NOON) == timedelta(days=1)


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True), st.integers(1, 40))
def test_a_stack_is_known_by_its_name(site: str, shard: int) -> None:
    stack = Stack("pools", "sample-production", site, shard)
    assert Stack.named("pools", "sample-production", stack.name) == stack
    assert Stack.named("pools", "other-production", stack.name) is None


def test_pointers_name_what_is_declared_by_digest() -> None:
    fleet = small_fleet("east")
    found = pointers(fleet, [("gateway", "sha256:1")])
    assert found["built"] == {"gateway": "sha256:1"}
    (model,) = fleet.models.values()
    assert json.dumps(found).count(model.digest) == 1


def test_the_objective_is_the_tightest_of_the_use_cases_and_the_future_is_new() -> None:
    fleet = small_fleet("east")
    assert tightest_rpo(fleet).total_seconds() == min(
        case.rpo_s for case in fleet.use_cases.values()
    )
    assert age_of(NOON + timedelta(hours=1), NOON) == timedelta()
    assert age_of(NOON - timedelta(hours=1), NOON) == timedelta(hours=1)
