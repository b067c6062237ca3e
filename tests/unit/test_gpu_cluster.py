"""One component, three ways to a cluster; and the two ways to its GPUs."""

from collections.abc import Callable
from pathlib import Path

import pulumi
import pytest
from tests.bare_metal import load_documented
from tests.recorded import Recorder, declare

from gpufleet.components.gpu_cluster import GpuCluster
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import CHARTS
from gpufleet.components.pod_template import pod_spec
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core.cluster_api import cluster_objects
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import pools_at
from gpufleet.spec import Fleet
from gpufleet.spec.clusters import ProvisionedCluster
from gpufleet.spec.hardware import Cluster, EmbeddedCluster, ExistingCluster, GpuAccess

EXISTING = ExistingCluster(provider="existing", context="mine")


@pytest.fixture
def provisioned(tmp_path: Path) -> Fleet:
    """The documented fleet: provisioned, its GPUs claimed."""
    return load_documented(tmp_path)


@pytest.fixture
def reached(tmp_path: Path) -> Fleet:
    """The same, once its context is named."""
    return load_documented(
        tmp_path, ("namespace: metal3", "namespace: metal3\n      context: main")
    )


def on(fleet: Fleet, cluster: Cluster, access: GpuAccess = GpuAccess.DEVICE_PLUGIN) -> Fleet:
    """The fleet with another cluster and another way to its GPUs."""
    site, group = fleet.sites["main"], fleet.node_groups["h100"]
    return fleet.model_copy(
        update={
            "sites": {"main": site.model_copy(update={"cluster": cluster})},
            "node_groups": {"h100": group.model_copy(update={"gpu_access": access})},
        }
    )


def cluster_of(fleet: Fleet, keep: list[GpuCluster] | None = None) -> Callable[[], None]:
    def program() -> None:
        made = GpuCluster(DeclaredSite(fleet, Path("fleet.yaml"), "main"))
        if keep is not None:
            keep.append(made)

    return program


def contexts(recorder: Recorder) -> dict[str, str]:
    return {made.name: made.inputs["context"] for made in recorder.of("kubernetes")}


def test_an_embedded_cluster_gets_definitions_and_nothing_that_it_has(
    recorder: Recorder, provisioned: Fleet
) -> None:
    made: list[GpuCluster] = []
    declare(cluster_of(on(provisioned, EmbeddedCluster()), made))
    releases = {release.name for release in recorder.of("Release")}
    assert releases == {
        f"{each}-crds" for each in ("kueue", "keda", "gateway-api", "prometheus-operator", "lws")
    }
    assert not recorder.of("NodePatch")
    assert not recorder.of("DeviceClass")
    assert contexts(recorder) == {"main": "main", "main-extended": "main"}
    assert made[0].extended is not None


def test_an_existing_cluster_gets_operators_labels_and_taints(
    recorder: Recorder, provisioned: Fleet
) -> None:
    declare(cluster_of(on(provisioned, EXISTING)))
    releases = {release.name for release in recorder.of("Release")}
    assert releases == {"gateway-api-crds", *(chart.name.rsplit("/", 1)[-1] for chart in CHARTS)}
    patched = {patch.name: patch.inputs for patch in recorder.of("NodePatch")}
    assert set(patched) == {"h100-001", "h100-002"}
    for inputs in patched.values():
        assert inputs["spec"]["taints"][0]["key"] == "nvidia.com/gpu"
        assert inputs["metadata"]["labels"]["gpufleet.dev/node-group"] == "h100"
    assert contexts(recorder) == {"main": "mine", "main-extended": "mine"}


@pytest.mark.parametrize("cluster", [EmbeddedCluster(), EXISTING])
def test_what_stood_at_the_top_of_a_state_before_is_the_same_resource(
    recorder: Recorder, provisioned: Fleet, cluster: Cluster
) -> None:
    declare(cluster_of(on(provisioned, cluster)))
    adopted = [name for name in ("definitions", "operators", "nodes") if name in recorder.requests]
    assert "definitions" in adopted
    for name in adopted:
        assert [alias.spec.noParent for alias in recorder.requests[name].aliases] == [True]


def test_a_provisioned_cluster_is_written_to_its_management_cluster_only(
    recorder: Recorder, provisioned: Fleet
) -> None:
    made: list[GpuCluster] = []
    declare(cluster_of(provisioned, made))
    cluster = provisioned.sites["main"].cluster
    assert isinstance(cluster, ProvisionedCluster)
    declared = cluster_objects(provisioned, "main", cluster)
    kinds = {thing["kind"] for thing in declared}
    written = [
        {key: each.inputs[key] for key in ("apiVersion", "kind", "metadata", "spec")}
        for kind in kinds
        for each in recorder.of(kind)
    ]
    assert sorted(written, key=str) == sorted(declared, key=str)
    assert contexts(recorder) == {"main-management": "management"}
    assert not recorder.of("Release")
    assert not recorder.of("NodePatch")
    assert made[0].extended is None


def test_what_would_wipe_hosts_is_protected_and_old_templates_stay(
    recorder: Recorder, provisioned: Fleet
) -> None:
    declare(cluster_of(provisioned))
    protected = {
        request.type.rsplit(":", 1)[-1] for request in recorder.requests.values() if request.protect
    }
    kept = {
        request.type.rsplit(":", 1)[-1]
        for request in recorder.requests.values()
        if request.retainOnDelete
    }
    assert protected == {"Cluster", "KubeadmControlPlane", "Metal3Cluster"}
    assert kept == {"Metal3MachineTemplate", "KubeadmConfigTemplate"}


def test_a_provisioned_cluster_that_is_reached_is_adopted_without_its_taints(
    recorder: Recorder, reached: Fleet
) -> None:
    declare(cluster_of(reached))
    assert contexts(recorder) == {
        "main-management": "management",
        "main": "main",
        "main-extended": "main",
    }
    assert recorder.of("MachineDeployment")
    patches = recorder.of("NodePatch")
    assert {patch.inputs["metadata"]["name"] for patch in patches} == {"h100-001", "h100-002"}
    assert not any("spec" in patch.inputs for patch in patches)
    racks = {patch.inputs["metadata"]["labels"].get("gpufleet.dev/rack") for patch in patches}
    assert racks == {"r1", "r2", None}


def test_drivers_are_never_a_charts_and_one_way_alone_gives_gpus(
    recorder: Recorder, reached: Fleet
) -> None:
    declare(cluster_of(reached))
    releases = {release.name: release.inputs for release in recorder.of("Release")}
    assert releases["gpu-operator"]["values"]["driver"] == {"enabled": False}
    driver = releases["nvidia-dra-driver-gpu"]
    assert driver["version"]
    selector = driver["values"]["kubeletPlugin"]["nodeSelector"]
    switched = {
        patch.inputs["metadata"]["name"]
        for patch in recorder.of("NodePatch")
        if patch.inputs["metadata"]["labels"].get("nvidia.com/gpu.deploy.device-plugin") == "false"
    }
    # A patch stops the driver's pod by this label, as it does those of the GPU operator.
    switch = "nvidia.com/gpu.deploy.dra-driver"
    assert selector[switch] == "true"
    labelled = {
        patch.inputs["metadata"]["name"]
        for patch in recorder.of("NodePatch")
        if patch.inputs["metadata"]["labels"].get(switch) == "true"
    }
    for node in expand_site(reached, "main"):
        assert node.name in labelled
        assert selector.items() <= node.labels.items()
        assert "nvidia.com/gpu" not in node.capacity
        assert node.name in switched


def test_without_claims_no_driver_for_them_is_installed(
    recorder: Recorder, provisioned: Fleet
) -> None:
    fleet = on(provisioned, EXISTING)
    declare(lambda: NodeLabels("nodes", expand_site(fleet, "main")))
    declare(cluster_of(fleet))
    assert "nvidia-dra-driver-gpu" not in {release.name for release in recorder.of("Release")}
    for patch in recorder.of("NodePatch"):
        assert "nvidia.com/gpu.deploy.device-plugin" not in patch.inputs["metadata"]["labels"]
        assert "gpufleet.dev/gpu-access" not in patch.inputs["metadata"]["labels"]


def test_an_embedded_cluster_with_claims_has_the_device_class_itself(
    recorder: Recorder, provisioned: Fleet
) -> None:
    declare(cluster_of(on(provisioned, EmbeddedCluster(), GpuAccess.DRA)))
    (made,) = recorder.of("DeviceClass")
    assert made.inputs["metadata"]["name"] == "gpu.nvidia.com"


def test_pods_of_claimed_gpus_request_none_and_claim_as_many(
    recorder: Recorder, provisioned: Fleet
) -> None:
    (pool,) = pools_at(provisioned, "main")
    spec = pod_spec(pool, provisioned.images.gpufleet)
    (engine,) = spec["containers"]
    assert "nvidia.com/gpu" not in {
        **engine["resources"]["requests"],
        **engine["resources"]["limits"],
    }
    (claim,) = spec["resourceClaims"]
    assert engine["resources"]["claims"] == [{"name": claim["name"]}]

    def program() -> None:
        none = pulumi.Output.from_input("none")
        ServingPool(pool, PoolContext(provisioned, none))

    declare(program)
    (template,) = recorder.of("ResourceClaimTemplate")
    assert template.inputs["metadata"]["name"] == claim["resourceClaimTemplateName"]
    (request,) = template.inputs["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.nvidia.com",
        "allocationMode": "ExactCount",
        "count": pool.gpus_per_node,
    }
    counted = on(provisioned, EXISTING)
    (pool,) = pools_at(counted, "main")
    assert pod_spec(pool, counted.images.gpufleet).keys() == spec.keys() - {"resourceClaims"}


@pytest.mark.parametrize(
    ("access", "hard"),
    [
        (GpuAccess.DEVICE_PLUGIN, {"requests.nvidia.com/gpu": "12"}),
        (
            GpuAccess.DRA,
            {
                "requests.nvidia.com/gpu": "12",
                "gpu.nvidia.com.deviceclass.resource.k8s.io/devices": "12",
            },
        ),
    ],
)
def test_the_quota_counts_gpus_the_way_that_they_are_asked_for(
    recorder: Recorder, provisioned: Fleet, access: GpuAccess, hard: dict[str, str]
) -> None:
    fleet = on(provisioned, EXISTING, access)
    declare(lambda: SitePlatform(SitePlan.of(fleet, "main")))
    (quota,) = recorder.of("ResourceQuota")
    assert quota.inputs["spec"]["hard"] == hard
