"""Restoring to many nodes: how many at once, to which, and what their pods may do."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.components.restore_job import GATE, NODES, RestoreWork, opened, restore_job
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_worker import namespace_rules
from gpufleet.core.snapshots.fan_out import AT_ONCE_UNKNOWN, Links, parallelism, predicted_s
from gpufleet.core.snapshots.nodes import job_to_use, nodes_of, outcome_of
from gpufleet.core.weights import StoreAccess
from gpufleet.spec.errors import BadInput
from gpufleet.spec.hardware import AddressingStyle
from gpufleet.tasks.node_restore_view import wish

GB = 1e9
SNAPSHOT = "20261126T101500Z-3fa9c1d2"
RATES = st.floats(1e6, 1e12)
WORK = RestoreWork(
    job="restore-h100-x-1",
    fleet="sample-production",
    image="ghcr.io/gpufleet/gpufleet@sha256:" + "0" * 64,
    snapshot=SNAPSHOT,
    revision="chat-v7",
    node_group="h100",
    nodes=3,
    parallelism=2,
    bucket="sample-production-snapshots",
    store=StoreAccess("https://s3.example", "fra1", AddressingStyle.PATH, own_authority=False),
    encrypted=False,
)


@given(st.integers(1, 5000), RATES, st.none() | RATES, st.none() | RATES)
def test_the_store_and_the_network_are_never_asked_for_more_than_they_give(
    nodes: int, node: float, store: float | None, network: float | None
) -> None:
    links = Links(node, store, network)
    at_once = parallelism(nodes, links)
    assert 1 <= at_once <= nodes
    shared = links.shared_bytes_per_s
    if shared is None:
        assert at_once == min(nodes, AT_ONCE_UNKNOWN)
    elif at_once > 1:
        assert at_once * node <= shared
    if shared is not None and at_once < nodes:
        assert (at_once + 1) * node > shared


@given(st.integers(1, 500), RATES, RATES)
def test_the_first_nodes_are_done_before_all_and_all_no_sooner_than_the_store_allows(
    nodes: int, node: float, store: float
) -> None:
    each = 10 * 2**30
    first_s, all_s = predicted_s(each, nodes, Links(node, store))
    assert first_s <= all_s
    assert all_s >= nodes * each / store * (1 - 1e-9) or store >= node
    assert all_s * max(store, node) >= each * nodes / max(nodes, 1)


def test_eight_nodes_of_two_gb_share_a_store_of_ten() -> None:
    links = Links(2 * GB, 10 * GB, 100 * GB)
    assert parallelism(8, links) == 5
    assert predicted_s(int(100 * GB), 8, links) == (50.0, 100.0)


def node(name: str, *, ready: bool = True, cordoned: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {names.HOSTNAME: name}},
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_nodes_that_cannot_be_restored_to_are_left_out_with_why() -> None:
    found = [node("c"), node("a"), node("b", ready=False), node("d", cordoned=True)]
    assert nodes_of(found) == (["a", "c"], {"b": "it is not ready", "d": "it is cordoned"})


def test_what_the_job_says_is_told_by_node() -> None:
    hosts = [f"n{index}" for index in range(6)]
    ended = [{"type": "Failed", "status": "True"}]
    job = {"status": {"completedIndexes": "0,2-4", "failedIndexes": "5", "conditions": ended}}
    assert outcome_of(job, hosts) == (["n0", "n2", "n3", "n4"], ["n5"], True)
    assert outcome_of({"status": {}}, hosts) == ([], [], False)


def job(name: str, *, ended: bool, group: str = "h100") -> dict[str, Any]:
    conditions = [{"type": "Complete", "status": "True"}] if ended else []
    return {
        "metadata": {"name": name, "labels": {names.NODE_GROUP: group}},
        "status": {"conditions": conditions},
    }


def test_a_second_call_goes_on_with_the_job_that_runs_and_else_makes_a_new_one() -> None:
    base = f"restore-h100-{SNAPSHOT.lower()}"
    assert job_to_use(SNAPSHOT, "h100", []) == f"{base}-1"
    assert job_to_use(SNAPSHOT, "h100", [job(f"{base}-1", ended=False)]) == f"{base}-1"
    assert job_to_use(SNAPSHOT, "h100", [job(f"{base}-1", ended=True)]) == f"{base}-2"
    other = [job(f"{base}-1", ended=False, group="h100-b")]
    assert job_to_use(SNAPSHOT, "h100", other) == f"{base}-1"


def test_a_job_that_is_given_up_while_a_lost_node_holds_its_pod_is_not_taken_again() -> None:
    base = f"restore-h100-{SNAPSHOT.lower()}"
    given_up = job(f"{base}-1", ended=False)
    given_up["status"]["conditions"] = [{"type": "FailureTarget", "status": "True"}]
    assert job_to_use(SNAPSHOT, "h100", [given_up]) == f"{base}-2"


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True))
def test_the_names_of_its_pods_are_ones_that_kubernetes_takes(group: str) -> None:
    assert len(f"{job_to_use(SNAPSHOT, group, [])}-9999-abcde") <= 63


def test_its_pods_use_one_folder_of_their_node_and_no_privilege() -> None:
    made = restore_job(WORK, json.dumps(["a", "b", "c"]))
    spec = made["spec"]
    assert (spec["completions"], spec["parallelism"]) == (3, 2)
    assert json.loads(made["metadata"]["annotations"][NODES]) == ["a", "b", "c"]
    pod = spec["template"]["spec"]
    paths = [each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each]
    assert paths == [names.CACHE_FOLDER]
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not pod["automountServiceAccountToken"]
    assert pod["schedulingGates"] == [{"name": GATE}]
    assert opened("a")["spec"]["nodeSelector"] == {names.HOSTNAME: "a"}


def test_the_worker_sends_pods_to_nodes_in_the_caches_namespace_alone() -> None:
    for namespace in names.GOVERNED_NAMESPACES:
        patches = [
            rule
            for rule in namespace_rules(namespace)
            if "pods" in rule["resources"] and "patch" in rule["verbs"]
        ]
        assert bool(patches) == (namespace == names.CACHE_NAMESPACE)


def test_rates_are_read_with_their_unit_and_others_are_refused() -> None:
    assert wish("x", "h100", ("2GB", "20GB/s", ""), elsewhere="").node_bytes_per_s == 2 * GB
    for wrong in ("fast", "-1GB", "0"):
        with pytest.raises(BadInput, match="is no rate"):
            wish("x", "h100", ("", wrong, ""), elsewhere="")
    with pytest.raises(BadInput, match="nodes' caches whole"):
        wish("x", "h100", ("", "", ""), elsewhere="/models")
