"""What the components declare. The resources are recorded, not made: no GPU cluster and no chart
repository can be reached from here; on the embedded platform the end-to-end tests make them."""

import pulumi
import pytest
from tests.recorded import Recorder, declare

from gpufleet.components.definitions import Definitions
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import CHARTS, Operators
from gpufleet.components.pod_template import pod_spec
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
POOLS = [pool for site in FLEET.sites for pool in pools_at(FLEET, site)]


def context() -> PoolContext:
    """What a platform stack gives to pools."""
    return PoolContext(FLEET.images.gpufleet, pulumi.Output.from_input("http://prometheus"))


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.site}-{pool.name}")
def test_every_pod_passes_pod_security_restricted(pool: PoolAtSite) -> None:
    spec = pod_spec(pool, FLEET.images.gpufleet)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in container["image"]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.site}-{pool.name}")
def test_weights_are_restored_by_digest_and_read_only_for_the_engine(pool: PoolAtSite) -> None:
    spec = pod_spec(pool, FLEET.images.gpufleet)
    (restore,), (engine,) = spec["initContainers"], spec["containers"]
    assert f"--digest={pool.model.digest}" in restore["args"]
    mounts = {mount["name"]: mount for mount in engine["volumeMounts"]}
    assert mounts["weights"]["readOnly"] is True
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert volumes["shm"]["medium"] == "Memory"
    assert mounts["shm"]["mountPath"] == "/dev/shm"  # noqa: S108 - what is checked
    assert int(volumes["weights"]["sizeLimit"]) > pool.model.size_bytes


def test_only_the_leader_of_a_group_serves_requests() -> None:
    pool = next(pool for pool in POOLS if pool.spans_nodes)
    leader = pod_spec(pool, FLEET.images.gpufleet)["containers"][0]
    worker = pod_spec(pool, FLEET.images.gpufleet, leader=False)["containers"][0]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} <= set(leader)
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} & set(worker)
    assert "--headless" in worker["args"]


def test_replica_counts_are_left_to_the_autoscaler_where_one_owns_them(recorder: Recorder) -> None:
    pools = pools_at(FLEET, "fra1")
    left_alone: dict[str, list[str] | None] = {}

    def note(args: pulumi.ResourceTransformationArgs) -> None:
        if args.type_.endswith((":Deployment", ":LeaderWorkerSet")):
            left_alone[args.name] = args.opts.ignore_changes

    opts = pulumi.ResourceOptions(transformations=[note])
    declare(lambda: [ServingPool(pool, context(), opts) for pool in pools])
    assert left_alone == {
        pool.name: ["spec.replicas"] if pool.autoscaled else None for pool in pools
    }
    made = recorder.of("Deployment") + recorder.of("LeaderWorkerSet")
    assert {each.name: each.inputs["spec"]["replicas"] for each in made} == {
        pool.name: pool.replicas for pool in pools
    }
    scaled = {made.inputs["metadata"]["name"] for made in recorder.of("ScaledObject")}
    assert scaled == {pool.name for pool in pools if pool.autoscaled}


def test_losing_prometheus_never_scales_in(recorder: Recorder) -> None:
    declare(lambda: [ServingPool(pool, context()) for pool in pools_at(FLEET, "dub1")])
    scaled = recorder.of("ScaledObject")
    assert scaled
    for made in scaled:
        assert made.inputs["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_a_site_has_no_gpu_quota_where_kueue_owns_it(recorder: Recorder) -> None:
    declare(lambda: SitePlatform(SitePlan.of(FLEET, "dub1")))
    quotas = [made.inputs["metadata"]["namespace"] for made in recorder.of("ResourceQuota")]
    assert quotas == ["gpufleet-interactive"]
    denied = {
        made.inputs["metadata"]["namespace"]
        for made in recorder.of("NetworkPolicy")
        if made.inputs["metadata"]["name"] == "default-deny"
    }
    namespaces = {made.inputs["metadata"]["name"] for made in recorder.of("Namespace")}
    assert denied == namespaces
    for made in recorder.of("Namespace"):
        labels = made.inputs["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_on_a_real_cluster_ansible_owns_drivers_and_charts_are_pinned(recorder: Recorder) -> None:
    declare(lambda: Operators("operators"))
    releases = {made.name: made.inputs for made in recorder.of("Release")}
    assert set(releases) == {chart.name.rsplit("/", 1)[-1] for chart in CHARTS}
    assert all(release["version"] for release in releases.values())
    values = releases["gpu-operator"]["values"]
    assert values["driver"] == {"enabled": False}
    assert values["toolkit"] == {"enabled": False}


def test_on_a_real_cluster_only_our_labels_and_taint_are_patched(recorder: Recorder) -> None:
    nodes = expand_site(FLEET, "fra1")
    declare(lambda: NodeLabels("nodes", nodes))
    patched = recorder.of("NodePatch")
    assert len(patched) == len(nodes)
    for made in patched:
        assert all(key.startswith("gpufleet.dev/") for key in made.inputs["metadata"]["labels"])


def test_definitions_are_one_release_for_each_operator(recorder: Recorder) -> None:
    declare(lambda: Definitions("definitions"))
    charts = {made.inputs["chart"].rsplit("/", 1)[-1] for made in recorder.of("Release")}
    assert charts == {"kueue", "keda", "gateway-api", "prometheus-operator", "lws"}
