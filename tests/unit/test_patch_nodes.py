"""Nobody touches what somebody else cordoned."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.drills.production import mark_of
from gpufleet.core.patching.nodes import (
    cordon_refusal,
    cordoned_by_others,
    is_left,
    is_ours,
    is_own_quarantine,
    is_stale,
    may_drain,
    may_pass,
    may_uncordon,
    owner_to_know,
    placed_by,
    quarantine_annotations,
    standing,
    to_drain,
)

OURS = "patch/flow-1"


def node(
    *, mark: str | None = None, token: str | None = None, cordoned: bool = False, taint: str = ""
) -> list[dict[str, Any]]:
    given = {"gpufleet.dev/cordoned-by": mark, "gpufleet.dev/cordoned-with": token}
    annotations = {key: value for key, value in given.items() if value}
    return [
        {
            "metadata": {"annotations": annotations},
            "spec": {
                "unschedulable": cordoned,
                "taints": [{"key": taint, "effect": "NoSchedule"}] if taint else None,
            },
        }
    ]


def refusal(found: list[dict[str, Any]], fence: int = 7) -> str:
    return cordon_refusal("gpu-001", found, OURS, fence)


def test_a_node_that_takes_work_may_be_cordoned_whatever_mark_was_left_on_it() -> None:
    assert refusal(node()) == ""
    assert refusal(node(mark="patch/other", token="9")) == ""


def test_a_cordon_without_a_mark_is_somebody_else_s() -> None:
    assert "somebody else" in refusal(node(cordoned=True))


def test_a_cordon_of_another_tool_is_told_with_its_name() -> None:
    assert "by karpenter" in refusal(node(cordoned=True, mark="karpenter"))


def test_our_own_cordon_is_found_again() -> None:
    found = node(cordoned=True, mark=OURS, token="7")
    assert refusal(found) == ""
    assert is_ours(found, OURS)


@given(st.integers(0, 50), st.integers(0, 50))
def test_another_patch_s_cordon_is_taken_over_by_a_higher_token_only(held: int, fence: int) -> None:
    found = node(cordoned=True, mark="patch/other", token=str(held))
    assert (refusal(found, fence) == "") == (fence > held)


def test_a_node_is_emptied_under_our_own_cordon_or_in_quarantine_whoever_cordoned_it() -> None:
    assert may_drain(node(cordoned=True, mark=OURS), OURS)
    for mark in (None, "patch/other"):
        assert not may_drain(node(cordoned=True, mark=mark), OURS)
        assert may_drain(node(cordoned=True, mark=mark, taint="gpufleet.dev/quarantined"), OURS)
    assert not may_drain(node(mark=OURS), OURS)
    assert not may_drain([], OURS)


def test_a_quarantined_node_is_left_alone_even_by_its_own_flow() -> None:
    found = node(cordoned=True, mark=OURS, taint="gpufleet.dev/quarantined")
    assert "quarantined" in refusal(found)
    assert not may_uncordon(found, OURS)


def test_a_rollback_may_enter_what_a_patch_has_quarantined_and_nothing_else() -> None:
    taint = "gpufleet.dev/quarantined"
    mine = node(cordoned=True, mark=OURS, taint=taint)
    assert cordon_refusal("gpu-001", mine, OURS, 7, back=True) == ""
    older = node(cordoned=True, mark="patch/other", token="6", taint=taint)
    assert cordon_refusal("gpu-001", older, OURS, 7, back=True) == ""
    assert cordon_refusal("gpu-001", older, OURS, 6, back=True)
    theirs = node(cordoned=True, taint=taint)
    assert "quarantined" in cordon_refusal("gpu-001", theirs, OURS, 7, back=True)
    assert not may_uncordon(mine, OURS)


def test_a_quarantine_is_its_first_owner_s_whoever_cordons_the_node_later() -> None:
    taint, by = "gpufleet.dev/quarantined", "gpufleet.dev/quarantined-by"
    found = node(cordoned=True, mark=OURS, taint=taint)
    found[0]["metadata"]["annotations"][by] = "patch/other"
    assert not is_own_quarantine(found, OURS)
    assert is_own_quarantine(found, "patch/other")
    again = quarantine_annotations(found, present=True, mark=OURS, reason="again")
    assert again[by] == "patch/other"
    assert quarantine_annotations(node(), present=True, mark=OURS, reason="new")[by] == OURS
    assert quarantine_annotations(found, present=False, mark=OURS, reason="well")[by] is None


def test_a_cordon_with_a_mark_that_its_patch_cannot_have_left_is_a_person_s() -> None:
    found = node(cordoned=True, mark="patch/other", token="3")
    assert owner_to_know(found, OURS) == "other"
    assert cordon_refusal("gpu-001", found, OURS, 7, left=True) == ""
    assert "somebody else" in cordon_refusal("gpu-001", found, OURS, 7, left=False)
    assert owner_to_know(node(cordoned=True, mark=OURS), OURS) == ""
    assert owner_to_know(node(mark="patch/other"), OURS) == ""
    assert owner_to_know(node(cordoned=True), OURS) == ""


def test_a_mark_on_a_node_that_takes_work_is_stale() -> None:
    assert is_stale(node(mark="patch/other")[0])
    assert is_stale(node(mark=mark_of("drill-1"))[0])
    assert not is_stale(node(cordoned=True, mark=mark_of("drill-1"))[0])
    assert not is_stale(node(cordoned=True, mark="patch/other")[0])
    assert not is_stale(node(mark="karpenter")[0])
    assert not is_stale(node()[0])


def test_a_node_that_nobody_could_see_or_that_we_hold_is_told_as_held() -> None:
    assert standing([], OURS)["held"]
    assert standing(node(cordoned=True, mark=OURS), OURS)["held"]
    person = standing(node(cordoned=True), OURS)
    assert person == {"quarantined": False, "uncordoned": False, "held": False}
    tainted = standing(node(taint="gpufleet.dev/quarantined"), OURS)
    assert tainted == {"quarantined": True, "uncordoned": False, "held": False}
    assert standing(node(), OURS) == {"quarantined": False, "uncordoned": True, "held": False}


def test_a_node_that_is_not_there_is_told() -> None:
    assert "not in its cluster" in refusal([])


def test_only_our_own_cordon_is_taken_away() -> None:
    assert may_uncordon(node(cordoned=True, mark=OURS), OURS)
    assert not may_uncordon(node(cordoned=True, mark="patch/other"), OURS)
    assert not may_uncordon(node(cordoned=True), OURS)
    assert not may_uncordon(node(mark=OURS), OURS)
    assert not may_uncordon([], OURS)


def test_leaving_quarantine_takes_over_a_patch_s_cordon_and_nobody_else_s() -> None:
    ours = quarantine_annotations(
        node(cordoned=True, mark="patch/old"), present=False, mark=OURS, reason="mended"
    )
    assert ours["gpufleet.dev/cordoned-by"] == OURS
    theirs = quarantine_annotations(node(cordoned=True), present=False, mark=OURS, reason="mended")
    assert "gpufleet.dev/cordoned-by" not in theirs


def pod(
    name: str, *, owner: str = "ReplicaSet", phase: str = "Running", mirror: bool = False
) -> dict[str, Any]:
    annotations = {"kubernetes.io/config.mirror": "x"} if mirror else {}
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "annotations": annotations,
            "ownerReferences": [{"kind": owner}] if owner else None,
        },
        "status": {"phase": phase},
    }


def test_what_comes_back_or_has_ended_is_not_drained() -> None:
    pods = [
        pod("replica"),
        pod("bare", owner=""),
        pod("agent", owner="DaemonSet"),
        pod("static", mirror=True),
        pod("done", phase="Succeeded"),
        pod("failed", phase="Failed"),
    ]
    assert to_drain(pods) == ["n/bare", "n/replica"]


def test_what_a_patch_left_cordoned_is_taken_up_by_its_own_flow_or_a_later_one() -> None:
    left = node(cordoned=True, mark="patch/other", token="3")
    assert is_left(left, OURS, 4)
    assert not is_left(left, OURS, 3)
    assert is_left(node(cordoned=True, mark=OURS), OURS, 0)
    assert not is_left(node(mark=OURS), OURS, 4)
    assert not is_left(node(cordoned=True), OURS, 4)
    assert not is_left(node(cordoned=True, mark=OURS, taint="gpufleet.dev/quarantined"), OURS, 4)
    assert not is_left([], OURS, 4)


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("HTTPSConnectionPool(host='x'): Max retries exceeded with url: /version", True),
        ('Failed to patch object: b\'{"message":"etcdserver: request timed out"}\'', True),
        ('Failed to find API for resource with apiVersion "v1" and kind "Node"', True),
        ("Failed to find exact match for v1.Node by [kind, name, singularName, shortNames]", True),
        ("Failed to patch object: (503)\nReason: Service Unavailable", True),
        ('nodes "gpu-001" is forbidden: User cannot patch resource', False),
        ("Operation cannot be fulfilled: the object has been modified", False),
        ("", False),
    ],
)
def test_only_what_passes_by_itself_is_asked_again(said: str, passes: bool) -> None:  # noqa: FBT001 - a case of a table
    assert may_pass(said) is passes


def test_a_node_that_a_person_has_cordoned_is_none_that_a_patch_plans() -> None:
    [theirs] = node(cordoned=True)
    assert cordoned_by_others(theirs) == (
        "its node is cordoned by somebody, who has not uncordoned it"
    )
    [named] = node(cordoned=True, mark="ops/mara")
    assert "cordoned by ops/mara" in cordoned_by_others(named)
    # What a patch has left is taken to its end by the next one.
    for each in (node(cordoned=True, mark="patch/flow-0"), node()):
        assert cordoned_by_others(each[0]) == ""


def test_only_pods_that_a_paused_label_places_are_awaited() -> None:
    def pod(name: str, **selector: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"nodeSelector": selector} if selector else {}}

    dra = "nvidia.com/gpu.deploy.dra-driver"
    pods = [
        pod("dra-driver", **{dra: "true", "gpufleet.dev/gpu-access": "dra"}),
        pod("feature-discovery-worker"),
        pod("exporter", **{"nvidia.com/gpu.deploy.dcgm-exporter": "true"}),
    ]
    assert placed_by(pods, [dra]) == ["dra-driver"]
    assert placed_by(pods, []) == []
