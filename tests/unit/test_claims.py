"""GPUs that are claimed: what nodes offer, what pods were given, how rows and drift count them."""

from pathlib import Path
from typing import Any

import pytest
from tests.bare_metal import load_documented

from gpufleet.core.claims import allocated, claims_of, devices_by_node, resource_slice
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import node_drift, pool_rows
from gpufleet.core.serving import pools_at
from gpufleet.core.vocabulary import POOL, REVISION_DIGEST
from gpufleet.spec import Fleet

Thing = dict[str, Any]
NAMESPACE = "gpufleet-interactive"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """The documented fleet: 2 nodes of 8 GPUs that are claimed."""
    return load_documented(tmp_path)


def pod(fleet: Fleet, claim: str | None) -> Thing:
    (pool,) = pools_at(fleet, "main")
    made = [{"name": "gpus", "resourceClaimName": claim}] if claim else None
    return {
        "metadata": {
            "namespace": NAMESPACE,
            "labels": {POOL: pool.name},
            "annotations": {REVISION_DIGEST: pool.model.digest},
        },
        "spec": {
            "nodeName": "h100-001",
            "containers": [{"resources": {"claims": [{"name": "gpus"}]}}],
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "answers-1-gpus"}],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "resourceClaimStatuses": made,
        },
    }


def claim(name: str, *drivers: str, namespace: str = NAMESPACE) -> Thing:
    results = [{"driver": driver, "device": f"gpu-{n}"} for n, driver in enumerate(drivers)]
    return {
        "metadata": {"namespace": namespace, "name": name},
        "status": {"allocation": {"devices": {"results": results}}} if drivers else {},
    }


def test_rows_count_the_devices_that_the_claims_of_placed_pods_were_given(fleet: Fleet) -> None:
    mine = claim("answers-x1", "gpu.nvidia.com", "gpu.nvidia.com", "network.example.com")
    others = [claim("waiting"), claim("answers-x1", "gpu.nvidia.com", namespace="other")]
    pods = [pod(fleet, "answers-x1"), pod(fleet, "waiting"), pod(fleet, None)]
    (row,) = pool_rows(fleet, "main", pods, [mine, *others])
    assert (row.gpus_used, row.gpus_free) == (2, 14)
    assert row.replicas_ready == 3


def test_a_claim_that_a_pod_names_itself_counts_too(fleet: Fleet) -> None:
    named = pod(fleet, None)
    named["spec"]["resourceClaims"] = [{"name": "gpus", "resourceClaimName": "shared"}]
    assert claims_of(named) == [(NAMESPACE, "shared")]
    assert allocated([claim("shared", "gpu.nvidia.com")])[NAMESPACE, "shared"] == 1


def test_a_node_offers_the_devices_of_the_newest_slices_of_its_driver(fleet: Fleet) -> None:
    (first, second) = expand_site(fleet, "main")
    old = resource_slice(first, "uid-1")
    new = resource_slice(first, "uid-1")
    new["spec"]["pool"] = {**new["spec"]["pool"], "generation": 2}
    new["spec"]["devices"] = new["spec"]["devices"][:7]
    network = resource_slice(second, "uid-2")
    network["spec"]["driver"] = "network.example.com"
    assert devices_by_node([new, old, network]) == {"h100-001": 7}
    assert devices_by_node([resource_slice(second, "uid-2")]) == {"h100-002": 8}


def test_a_node_that_offers_no_devices_to_claims_is_drift(fleet: Fleet) -> None:
    nodes = expand_site(fleet, "main")
    ready = [{"type": "Ready", "status": "True"}]
    # What a device plugin counts is not what was declared.
    counted = {"nvidia.com/gpu": "8"}
    found = [
        {
            "metadata": {"name": node.name, "labels": dict(node.labels)},
            "status": {"allocatable": counted, "conditions": ready},
        }
        for node in nodes
    ]
    slices = [resource_slice(node, "uid") for node in nodes]
    assert node_drift(nodes, found, "main", slices) == []
    (row,) = node_drift(nodes, found, "main", slices[:1])
    assert (row.what, row.declared, row.actual) == ("node h100-002", "8 GPUs", "0 GPUs")
