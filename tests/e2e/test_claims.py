"""A fleet whose GPUs are claimed, from its file to pods that serve."""

from typing import Any

import pytest
from tests.e2e.cloned import Clone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ARTICLE = "fleets/article/production.yaml"
CLAIMED = "fleets/article/claimed.yaml"
REPLICAS = 7


@pytest.fixture(scope="module")
def claimed(clone: Clone) -> Clone:
    """The article's fleet with its GPUs claimed, up."""
    text = (clone.root / ARTICLE).read_text()
    for old, new in (
        ("environment: production", "environment: claimed"),
        ("    nodes: 2\n", "    nodes: 2\n    gpu_access: dra\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (clone.root / CLAIMED).write_text(text)
    clone.report = clone.json("up", "--fleet", CLAIMED)
    clone.use(CLAIMED)
    return clone


def allocated(claim: dict[str, Any]) -> int:
    return len(claim["status"]["allocation"]["devices"]["results"])


def test_every_replica_serves_on_gpus_that_it_claimed(claimed: Clone) -> None:
    (row,) = claimed.report["pools"]
    assert (row["replicas_ready"], row["gpus_used"], row["gpus_free"]) == (REPLICAS, REPLICAS, 9)
    claims = claimed.kubectl("main", "get", "resourceclaims", "--all-namespaces")["items"]
    assert [allocated(claim) for claim in claims] == [1] * REPLICAS
    (quota,) = claimed.kubectl("main", "get", "resourcequota", "-n", "gpufleet-interactive")[
        "items"
    ]
    for counted in (
        "gpu.nvidia.com.deviceclass.resource.k8s.io/devices",
        "requests.nvidia.com/gpu",
    ):
        assert quota["status"]["used"][counted] == str(REPLICAS)
        assert quota["status"]["hard"][counted] == "12"


def test_nothing_drifts_and_a_second_up_changes_nothing(claimed: Clone) -> None:
    status = claimed.json("status", "--fleet", CLAIMED)
    assert status["drift"] == []
    again = claimed.json("up", "--fleet", CLAIMED)
    for stack in again["stacks"]:
        changes = ("created", "updated", "replaced", "deleted")
        assert not any(stack[change] for change in changes), stack
