"""Creations that a killed update left half done."""

from typing import Any

from gpufleet.core.pending import pending_creations, settled

INPUTS = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "chat",
        "namespace": "pools",
        "annotations": {"pulumi.com/patchFieldManager": "gpufleet"},
    },
}
SERVICE = {
    "urn": "urn:chat",
    "type": "kubernetes:core/v1:Service",
    "custom": True,
    "inputs": INPUTS,
    "parent": "urn:pool",
}
LIVE = {**INPUTS, "metadata": {**INPUTS["metadata"], "uid": "1"}}  # type: ignore[dict-item]


def latest(*pending: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    operations = [{"type": kind, "resource": resource} for kind, resource in pending]
    return {"resources": [{"urn": "urn:pool"}], "pending_operations": operations}


def test_what_came_to_stand_is_taken_into_the_state_as_if_it_had_been_seen() -> None:
    found = settled(latest(("creating", SERVICE)), {"urn:chat": LIVE})
    [_, made] = found["resources"]
    assert made["id"] == "pools/chat"
    assert made["parent"] == "urn:pool"
    assert made["outputs"]["metadata"]["uid"] == "1"
    assert made["outputs"]["__inputs"] == INPUTS
    assert made["outputs"]["__initialApiVersion"] == "v1"
    assert made["outputs"]["__fieldManager"] == "gpufleet"
    assert found["pending_operations"] == []


def test_what_never_came_to_stand_is_forgotten() -> None:
    found = settled(latest(("creating", SERVICE)), {})
    assert found["resources"] == [{"urn": "urn:pool"}]
    assert found["pending_operations"] == []


def test_what_the_state_has_already_is_not_taken_twice() -> None:
    state = latest(("creating", SERVICE))
    state["resources"].append({"urn": "urn:chat"})
    assert len(settled(state, {"urn:chat": LIVE})["resources"]) == 2


def test_other_operations_are_pulumis_own_to_settle() -> None:
    state = latest(("updating", SERVICE))
    assert pending_creations(state) == []
    assert settled(state, {"urn:chat": LIVE}) == state


def test_the_rest_of_the_state_stays() -> None:
    assert settled({**latest(), "manifest": {"magic": "x"}}, {})["manifest"] == {"magic": "x"}
