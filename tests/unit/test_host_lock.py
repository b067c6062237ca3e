"""One patch at a time changes a host: its lock knows the highest token."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.edges.workspace import PROJECT_ROOT

FILE = PROJECT_ROOT / "playbooks" / "plugins" / "modules" / "gpufleet_host_lock.py"
BOOT = "boot-1"


def loaded() -> ModuleType:
    """The module as Ansible sends it to a host: one file that imports nothing of ours."""
    spec = importlib.util.spec_from_file_location("gpufleet_host_lock", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = loaded()


def held(flow: str, fence: int, *, is_held: bool = True) -> dict[str, Any]:
    return {"flow": flow, "fence": fence, "boot_id": BOOT, "held": is_held}


def asked(before: dict[str, Any], flow: str, fence: int, state: str = "held") -> tuple[Any, str]:
    after, why_not = LOCK.wanted(before, flow, fence, state, BOOT)
    return after, str(why_not)


def test_a_free_host_is_taken_and_taken_again_without_a_change() -> None:
    after, why_not = asked({}, "a", 3)
    assert (after, why_not) == (held("a", 3), "")
    assert asked(after, "a", 3) == (after, "")


@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(["held", "released"]))
def test_only_a_higher_token_takes_a_host_over_released_or_not(
    known: int, fence: int, state: str
) -> None:
    after, why_not = asked(held("a", known, is_held=state == "held"), "b", fence)
    assert (why_not == "") == (fence > known)
    if why_not:
        assert "too old: a has changed this host" in why_not
    else:
        assert after == held("b", fence)


def test_the_same_flow_with_an_older_token_has_lost_it() -> None:
    _, why_not = asked(held("a", 5), "a", 4)
    assert "too old" in why_not


def test_what_is_released_keeps_its_token_against_whoever_comes_late() -> None:
    after, _ = asked(held("a", 5), "a", 5, "released")
    assert after == held("a", 5, is_held=False)
    assert asked(after, "b", 4)[1]
    assert not asked(after, "b", 6)[1]


def test_check_mode_has_no_token_and_is_told_who_is_at_work() -> None:
    assert asked(held("a", 5), "b", 0)[1] == "is being changed by a (token 5)"
    released = held("a", 5, is_held=False)
    assert asked(released, "b", 0) == (released, "")
    assert asked({}, "b", 0) == ({}, "")


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null"])
def test_a_lock_that_was_cut_short_counts_as_none(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "run" / "patch.json"
    if content is not None:
        file.parent.mkdir()
        file.write_text(content)
    before, after, why_not = LOCK.exchange(file, ("a", 3, "held", BOOT))
    assert (before, after, why_not) == ({}, held("a", 3), "")
    assert LOCK.read(file) == held("a", 3)


def test_a_refusal_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "patch.json"
    LOCK.exchange(file, ("a", 5, "held", BOOT))
    _, _, why_not = LOCK.exchange(file, ("b", 4, "held", BOOT))
    assert why_not
    assert LOCK.read(file) == held("a", 5)
