"""GPUs by ResourceClaims: the real scheduler, controllers and quota count the devices that the
embedded platform offers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gpufleet.core import claims
from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import Node, expand_site
from gpufleet.core.observed import node_drift, pool_rows
from gpufleet.edges.kube import Cluster
from gpufleet.local.devices import apply_devices
from gpufleet.local.nodes import apply_nodes
from gpufleet.spec import Fleet
from gpufleet.spec.hardware import GpuAccess

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITE = "west"
NAMESPACE = "claims"
NODES = "/api/v1/nodes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
QUOTA = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
TEMPLATES = f"/apis/{claims.API}/namespaces/{NAMESPACE}/resourceclaimtemplates"
CLAIMS = f"/apis/{claims.API}/namespaces/{NAMESPACE}/resourceclaims"
CLASSES = f"/apis/{claims.API}/deviceclasses"
GPUS_EACH = 3

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def fleet(embedded: "Embedded") -> Fleet:
    """The platform's fleet, if its GPUs were claimed."""
    declared = embedded.platform.fleet
    groups = {
        name: group.model_copy(update={"gpu_access": GpuAccess.DRA})
        for name, group in declared.node_groups.items()
    }
    pool = declared.pools["answers"]
    here = f"{SITE}-h100"
    placements = {here: pool.placements[here]}
    pools = {"answers": pool.model_copy(update={"placements": placements})}
    return declared.model_copy(update={"node_groups": groups, "pools": pools})


@pytest.fixture(scope="module")
def nodes(fleet: Fleet) -> tuple[Node, ...]:
    return expand_site(fleet, SITE)


@pytest.fixture(scope="module")
def cluster(embedded: "Embedded", nodes: tuple[Node, ...], until: "Until") -> Iterator[Cluster]:
    """A site whose GPUs are claimed while these tests run, and counted again afterwards."""
    connected = embedded.cluster(SITE)
    counted = expand_site(embedded.platform.fleet, SITE)
    apply_nodes(connected, nodes)
    apply_devices(connected, nodes)
    about = {"metadata": {"name": names.GPU_DEVICE_CLASS}}
    kind = {"apiVersion": claims.API, "kind": "DeviceClass"}
    connected.create(CLASSES, {**kind, **about, "spec": claims.device_class()})
    connected.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    )
    connected.create(TEMPLATES, template("three", GPUS_EACH))
    until(lambda: connected.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"))
    yield connected
    apply_nodes(connected, counted)
    apply_devices(connected, counted)
    connected.delete(f"{CLASSES}/{names.GPU_DEVICE_CLASS}")
    assert not connected.items(claims.SLICES_PATH)
    assert node_drift(counted, connected.items(NODES), SITE) == []
    connected.close()


@pytest.fixture(autouse=True)
def clean(cluster: Cluster, until: "Until") -> Iterator[None]:
    yield
    for path in (QUOTA, PODS):
        for found in cluster.items(path):
            cluster.delete(f"{path}/{found['metadata']['name']}")
    until(lambda: not cluster.items(PODS) and not cluster.items(CLAIMS))


def template(name: str, gpus: int) -> dict[str, Any]:
    exactly = {"deviceClassName": names.GPU_DEVICE_CLASS, "count": gpus}
    return {
        "apiVersion": claims.API,
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
    }


def pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {names.POOL: "answers"}},
        "spec": {
            "tolerations": [{"key": names.GPU_RESOURCE, "operator": "Exists"}],
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "three"}],
            "containers": [
                {
                    "name": "engine",
                    "image": "example/engine:1",
                    "resources": {"claims": [{"name": "gpus"}]},
                }
            ],
        },
    }


def condition(cluster: Cluster, name: str, kind: str) -> str:
    found = (cluster.get(f"{PODS}/{name}") or {}).get("status", {}).get("conditions") or []
    return next((each["status"] for each in found if each["type"] == kind), "")


def test_a_node_offers_its_gpus_as_devices_and_counts_none(
    cluster: Cluster, nodes: tuple[Node, ...]
) -> None:
    slices = cluster.items(claims.SLICES_PATH)
    assert claims.devices_by_node(slices) == {node.name: 8 for node in nodes}
    for node in cluster.items(NODES):
        assert names.GPU_RESOURCE not in node["status"]["capacity"]
        assert node["metadata"]["labels"][names.DEVICE_PLUGIN_SWITCH] == "false"
    device = slices[0]["spec"]["devices"][0]
    assert device["attributes"]["productName"] == {"string": "NVIDIA-H100-80GB-HBM3"}
    assert device["capacity"] == {"memory": {"value": "80Gi"}}
    assert node_drift(nodes, cluster.items(NODES), SITE, slices) == []


def test_offering_the_same_again_changes_nothing_and_a_changed_slice_is_mended(
    cluster: Cluster, nodes: tuple[Node, ...]
) -> None:
    assert apply_nodes(cluster, nodes) == 0
    assert apply_devices(cluster, nodes) == 0
    name = claims.slice_name(nodes[0].name)
    found = cluster.get(f"{claims.SLICES_PATH}/{name}")
    assert found
    found["metadata"].pop("managedFields")
    found["spec"]["devices"] = found["spec"]["devices"][:5]
    cluster.delete(f"{claims.SLICES_PATH}/{name}")
    found["metadata"].pop("resourceVersion")
    cluster.create(claims.SLICES_PATH, found)
    assert apply_devices(cluster, nodes) == 1
    offered = claims.devices_by_node(cluster.items(claims.SLICES_PATH))
    assert offered == {node.name: 8 for node in nodes}


def test_pods_are_scheduled_only_as_long_as_devices_are_left(
    cluster: Cluster, fleet: Fleet, until: "Until"
) -> None:
    # 3 of 8 GPUs each: two on a node, and what is left of two nodes is enough for no fifth.
    pods = [f"pod-{index}" for index in range(5)]
    for name in pods:
        cluster.create(PODS, pod(name))

    def ready() -> list[str]:
        return [name for name in pods if condition(cluster, name, "Ready") == "True"]

    until(lambda: len(ready()) == 4)
    (left,) = set(pods) - set(ready())
    until(lambda: condition(cluster, left, "PodScheduled") == "False")
    given = allocations(cluster)
    assert len(given) == len(set(given)) == 4 * GPUS_EACH
    found = cluster.items(PODS, labels=names.POOL)
    (row,) = pool_rows(fleet, SITE, found, cluster.items(claims.CLAIMS_PATH))
    assert (row.gpus_used, row.gpus_free) == (12, 4)
    cluster.delete(f"{PODS}/{ready()[0]}")
    until(lambda: condition(cluster, left, "Ready") == "True")


def allocations(cluster: Cluster) -> list[tuple[str, str]]:
    """Every device that a claim was given, with its node's pool."""
    return [
        (result["pool"], result["device"])
        for claim in cluster.items(CLAIMS)
        for result in (claim.get("status") or {})
        .get("allocation", {})
        .get("devices", {})
        .get("results", [])
    ]


def test_the_quota_counts_devices_that_are_claimed_under_both_names(
    cluster: Cluster, until: "Until"
) -> None:
    requests = f"requests.{names.GPU_RESOURCE}"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {names.CLAIMED_DEVICES: "6", requests: "16"}},
    }
    cluster.create(QUOTA, quota)

    def counted() -> dict[str, Any]:
        found = cluster.get(f"{QUOTA}/gpus") or {}
        used: dict[str, Any] = found.get("status", {}).get("used") or {}
        return used

    until(lambda: counted() == {names.CLAIMED_DEVICES: "0", requests: "0"})
    for index in range(3):
        cluster.create(PODS, pod(f"pod-{index}"))
    refused = until(
        lambda: next(
            (
                event
                for event in cluster.items(EVENTS)
                if event["reason"] == "FailedResourceClaimCreation"
            ),
            None,
        )
    )
    assert "exceeded quota: gpus" in refused["message"]
    until(lambda: counted() == {names.CLAIMED_DEVICES: "6", requests: "6"})
    assert len(cluster.items(CLAIMS)) == 2
