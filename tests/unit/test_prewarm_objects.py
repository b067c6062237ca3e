"""What a pool with declared peaks has on a cluster: images ahead, triggers, and who may ask it."""

from dataclasses import replace

import pulumi
from tests.recorded import Recorder, declare

from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.autoscaling import full_replica, scaled_object
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.serving import Prewarm

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
CHAT = next(pool for pool in pools_at(FLEET, "fra1") if pool.name == "chat")
PEAK = Prewarm(
    name="monday",
    recurrence="FREQ=WEEKLY;BYDAY=MO;BYHOUR=8",
    time_zone="Europe/Berlin",
    lead_s=521,
    duration_s=10_800,
    replicas={CHAT.group_name: 12},
)
WARMED = replace(CHAT, prewarm=(PEAK,))


def declared(pool: PoolAtSite) -> None:
    context = PoolContext(FLEET, pulumi.Output.from_input("http://prometheus"))
    declare(lambda: [ServingPool(pool, context)])


def test_the_engines_image_stands_on_every_node_of_a_prewarmed_group(recorder: Recorder) -> None:
    declared(WARMED)
    (made,) = recorder.of("DaemonSet")
    template = made.inputs["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert container["image"] == CHAT.model.engine.image
    assert pod["nodeSelector"] == {names.NODE_GROUP: CHAT.group_name}
    assert {"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    assert names.GPU_RESOURCE not in container["resources"]["limits"]
    # A Service, a disruption budget and a scrape select by the pool's label: these are no replicas.
    assert names.POOL not in template["metadata"]["labels"]
    assert template["metadata"]["labels"][names.CLASS] == "interactive"


def test_its_pods_pass_pod_security_restricted(recorder: Recorder) -> None:
    declared(WARMED)
    pod = recorder.of("DaemonSet")[0].inputs["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumes" not in pod


def test_a_pool_without_peaks_has_no_image_ahead(recorder: Recorder) -> None:
    declared(CHAT)
    assert recorder.of("DaemonSet") == []


def test_the_worker_may_ask_the_engines_of_a_prewarmed_pool_only(recorder: Recorder) -> None:
    def allowed(pool: PoolAtSite) -> set[str]:
        declared(pool)
        policy = recorder.of("NetworkPolicy")[-1]
        return {
            each["namespaceSelector"]["matchLabels"][names.NAMESPACE]
            for rule in policy.inputs["spec"]["ingress"]
            for each in rule["from"]
            if "namespaceSelector" in each
        }

    assert names.SYSTEM_NAMESPACE in allowed(WARMED)
    assert names.SYSTEM_NAMESPACE not in allowed(CHAT)
    pools = {**FLEET.pools, "chat": FLEET.pools["chat"].model_copy(update={"prewarm": [PEAK]})}
    assert 8000 in cluster_worker.egress_ports(FLEET.model_copy(update={"pools": pools}))
    assert 8000 not in cluster_worker.egress_ports(FLEET)


def test_the_worker_may_make_what_the_stacks_make() -> None:
    rules = cluster_worker.namespace_rules(names.INTERACTIVE_NAMESPACE)
    (apps,) = (rule for rule in rules if rule["apiGroups"] == ["apps"])
    assert "daemonsets" in apps["resources"]
    assert {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["create"]} in rules


def test_a_pool_scales_between_its_steady_and_its_burst_size_and_shrinks_slowly() -> None:
    for pool in pools_at(FLEET, "fra1"):
        if not pool.autoscaled:
            continue
        spec = scaled_object(pool, full_replica(FLEET, pool), "http://prometheus")
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (
            pool.replicas,
            pool.max_replicas,
        )
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        up, down = behavior["scaleUp"], behavior["scaleDown"]
        assert down["stabilizationWindowSeconds"] > up["stabilizationWindowSeconds"]
        assert down["policies"][0]["periodSeconds"] > up["policies"][0]["periodSeconds"]
        assert spec["fallback"] == {
            "failureThreshold": 3,
            "replicas": pool.replicas,
            "behavior": "currentReplicasIfHigher",
        }
        # KEDA's fallback counts for average values alone.
        for trigger in spec["triggers"]:
            if trigger["type"] == "prometheus":
                assert trigger["metricType"] == "AverageValue"
                assert trigger["metadata"]["ignoreNullValues"] == "false"
