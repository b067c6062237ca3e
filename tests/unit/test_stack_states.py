"""Which pools the states of a site's stacks hold, and which stacks need no update."""

import json
from pathlib import Path

import pytest

from gpufleet.edges.settled_stacks import SettledStacks
from gpufleet.edges.stack_states import POOLS, Stack, StackStates
from gpufleet.edges.workspace import EnvironmentDir

FIRST, SECOND = Stack(POOLS, "shop-production", "fra1"), Stack(POOLS, "shop-production", "fra1", 2)


@pytest.fixture
def state(tmp_path: Path) -> EnvironmentDir:
    return EnvironmentDir(tmp_path).make()


def write(state: EnvironmentDir, stack: Stack, *pools: str) -> None:
    resources = [
        {"type": "gpufleet:serving:ServingPool", "urn": f"urn:pulumi:s::p::t::{pool}"}
        for pool in pools
    ]
    resources.append({"type": "kubernetes:core/v1:Service", "urn": "urn:pulumi:s::p::t::other"})
    file = StackStates(state).file(stack)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": resources}}}))


def test_the_pools_of_each_stack_are_told_by_the_stacks_number(state: EnvironmentDir) -> None:
    write(state, FIRST, "chat", "code")
    write(state, SECOND, "mail")
    # Another site, and a fleet whose name begins alike.
    write(state, Stack(POOLS, "shop-production", "fra11"), "legal")
    write(state, Stack(POOLS, "shop-production", "fra1-2"), "small")
    found = StackStates(state).standing("shop-production", "fra1")
    assert found == {1: ["chat", "code"], 2: ["mail"]}


def test_before_the_first_update_nothing_stands(state: EnvironmentDir) -> None:
    assert StackStates(state).standing("shop-production", "fra1") == {1: []}


def test_only_the_same_inputs_over_the_same_state_need_no_update(state: EnvironmentDir) -> None:
    settled = SettledStacks(state)
    write(state, FIRST, "chat")
    assert not settled.is_settled(FIRST, "a")
    settled.remember(FIRST, "a")
    assert settled.is_settled(FIRST, "a")
    assert not settled.is_settled(FIRST, "b")
    assert not settled.is_settled(SECOND, "a")
    write(state, FIRST, "chat", "code")
    assert not settled.is_settled(FIRST, "a")


def test_a_lost_state_is_not_settled(state: EnvironmentDir) -> None:
    settled = SettledStacks(state)
    write(state, FIRST, "chat")
    settled.remember(FIRST, "a")
    StackStates(state).file(FIRST).unlink()
    assert not settled.is_settled(FIRST, "a")
