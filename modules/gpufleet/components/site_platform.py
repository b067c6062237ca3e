"""The ground that pools stand on at one site: namespaces, priorities, queues, quotas, policies."""

from collections.abc import Sequence
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components import node_cache
from gpufleet.core import vocabulary as names
from gpufleet.core.quotas import BatchQuota, SitePlan
from gpufleet.spec.batches import Priority

_KUEUE: Final = "kueue.x-k8s.io/v1beta1"
_PRIORITIES: Final = {
    "gpufleet-interactive": (100_000, "PreemptLowerPriority", "A person is waiting."),
    "gpufleet-batch": (10_000, "Never", "Work with a deadline; never preempts."),
}
_QUEUE_PRIORITIES: Final = {Priority.HIGH: 300, Priority.NORMAL: 200, Priority.LOW: 100}
"""Of batches in Kueue; a pool's replica has its PriorityClass' value there, which is above all."""


class SitePlatform(pulumi.ComponentResource):
    """Namespaces with Pod Security `restricted`, priorities, runtime class, queues and policies.

    Args:
        plan: derived numbers of the site.
        after: what has to stand before anything of the site.
        opts: with a provider that knows the operators' definitions.
    """

    def __init__(
        self,
        plan: SitePlan,
        after: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:platform:SitePlatform", plan.site, None, opts)
        self._plan = plan
        self._labels = {names.MANAGED: "true", names.FLEET: plan.fleet}
        self._children = pulumi.ResourceOptions(parent=self, depends_on=[*after])
        self._namespaces = [
            *(self._namespace(namespace, names.POD_SECURITY) for namespace in names.NAMESPACES),
            self._namespace(names.CACHE_NAMESPACE, names.CACHE_SECURITY),
        ]
        self._inside = pulumi.ResourceOptions(parent=self, depends_on=self._namespaces)
        self._priorities()
        self._quota()
        self._queues()
        self._gateway()
        self._to_store("restores", names.CACHE_NAMESPACE, {})
        for namespace in names.POOL_NAMESPACES:
            self._node_cache(namespace)
        self.register_outputs({"namespaces": list(names.NAMESPACES)})

    def _about(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        place = {"namespace": namespace} if namespace else {}
        return {"name": name, "labels": self._labels, **place}

    def _namespace(self, name: str, security: dict[str, str]) -> pulumi.Resource:
        namespace = k8s.core.v1.Namespace(
            name,
            metadata={"name": name, "labels": {**self._labels, **security}},
            opts=self._children,
        )
        inside = pulumi.ResourceOptions(parent=namespace)
        k8s.networking.v1.NetworkPolicy(
            f"{name}-default-deny",
            metadata=self._about("default-deny", name),
            spec={"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
            opts=inside,
        )
        k8s.networking.v1.NetworkPolicy(
            f"{name}-dns",
            metadata=self._about("dns", name),
            spec={
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [
                    {
                        "to": [
                            {"namespaceSelector": {"matchLabels": {names.NAMESPACE: "kube-system"}}}
                        ],
                        "ports": [{"port": 53, "protocol": kind} for kind in ("UDP", "TCP")],
                    }
                ],
            },
            opts=inside,
        )
        return namespace

    def _priorities(self) -> None:
        for name, (value, preemption, why) in _PRIORITIES.items():
            k8s.scheduling.v1.PriorityClass(
                name,
                metadata=self._about(name),
                value=value,
                preemption_policy=preemption,
                global_default=False,
                description=why,
                opts=self._children,
            )
        k8s.node.v1.RuntimeClass(
            names.RUNTIME_CLASS,
            metadata=self._about(names.RUNTIME_CLASS),
            handler="nvidia",
            opts=self._children,
        )

    def _quota(self) -> None:
        """GPUs for interactive work only: Kueue owns the quota of the batch namespace."""
        k8s.core.v1.ResourceQuota(
            names.INTERACTIVE_NAMESPACE,
            metadata=self._about("gpus", names.INTERACTIVE_NAMESPACE),
            spec={"hard": self._plan.interactive_quota},
            opts=self._inside,
        )

    def _queues(self) -> None:
        for quota in self._plan.batch:
            self._kueue("ResourceFlavor", quota.node_group, None, _flavor(quota))
        if not self._plan.batch:
            return
        self._kueue("ClusterQueue", names.CLUSTER_QUEUE, None, _cluster_queue(self._plan.batch))
        for pool in self._plan.batch_pools:
            queue = {"clusterQueue": names.CLUSTER_QUEUE}
            self._kueue("LocalQueue", pool, names.BATCH_NAMESPACE, queue)
        self._batches()

    def _batches(self) -> None:
        """What jobs of batches need: their order in the queue, and the way to the object store."""
        for priority, value in _QUEUE_PRIORITIES.items():
            name = names.queue_priority_of(priority)
            # It has no spec, and Pulumi's own class for custom resources knows nothing else.
            pulumi.CustomResource(
                f"kubernetes:{_KUEUE}:WorkloadPriorityClass",
                f"workloadpriorityclass-{name}",
                {
                    "apiVersion": _KUEUE,
                    "kind": "WorkloadPriorityClass",
                    "metadata": self._about(name),
                    "value": value,
                    "description": "Fills idle batch quota; a pool's replica takes it back.",
                },
                self._inside,
            )
        self._to_store(
            "batch-jobs",
            names.BATCH_NAMESPACE,
            {"matchExpressions": [{"key": names.BATCH_JOB, "operator": "Exists"}]},
        )

    def _to_store(self, name: str, namespace: str, pods: dict[str, Any]) -> None:
        """Let pods reach the object store, and nobody reach them."""
        ports = [{"port": port, "protocol": "TCP"} for port in self._plan.store_ports]
        k8s.networking.v1.NetworkPolicy(
            name,
            metadata=self._about(name, namespace),
            spec={
                "podSelector": pods,
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": ports}],
            },
            opts=self._inside,
        )

    def _node_cache(self, namespace: str) -> None:
        volume = node_cache.volume(namespace, self._labels)
        claim = node_cache.claim(namespace, self._labels)
        made = k8s.core.v1.PersistentVolume(
            volume["metadata"]["name"],
            metadata=volume["metadata"],
            spec=volume["spec"],
            opts=self._inside,
        )
        k8s.core.v1.PersistentVolumeClaim(
            volume["metadata"]["name"],
            metadata=claim["metadata"],
            spec=claim["spec"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[made]),
        )

    def _kueue(self, kind: str, name: str, namespace: str | None, spec: dict[str, Any]) -> None:
        CustomResource(
            f"{kind.lower()}-{name}",
            api_version=_KUEUE,
            kind=kind,
            metadata=self._about(name, namespace),
            spec=spec,
            opts=self._inside,
        )

    def _gateway(self) -> None:
        CustomResource(
            names.GATEWAY,
            api_version="gateway.networking.k8s.io/v1",
            kind="Gateway",
            metadata=self._about(names.GATEWAY, names.GATEWAY_NAMESPACE),
            spec={
                "gatewayClassName": names.GATEWAY,
                "listeners": [
                    {
                        # Only so: what clients send holds their keys.
                        "name": "https",
                        "port": 443,
                        "protocol": "HTTPS",
                        "tls": {
                            "mode": "Terminate",
                            "certificateRefs": [{"kind": "Secret", "name": names.GATEWAY_TLS}],
                        },
                        "allowedRoutes": {"namespaces": {"from": "Same"}},
                    }
                ],
            },
            opts=self._inside,
        )


def _flavor(quota: BatchQuota) -> dict[str, Any]:
    return {
        "nodeLabels": {names.NODE_GROUP: quota.node_group},
        "tolerations": [{"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
    }


def _cluster_queue(quotas: Sequence[BatchQuota]) -> dict[str, Any]:
    return {
        "namespaceSelector": {"matchLabels": {names.NAMESPACE: names.BATCH_NAMESPACE}},
        "queueingStrategy": "BestEffortFIFO",
        # A pool's replica takes its quota back from the batches that have filled it.
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {
                "coveredResources": ["cpu", "memory", names.GPU_RESOURCE],
                "flavors": [
                    {
                        "name": quota.node_group,
                        "resources": [
                            {"name": "cpu", "nominalQuota": str(quota.cpus)},
                            {"name": "memory", "nominalQuota": str(quota.memory_bytes)},
                            {"name": names.GPU_RESOURCE, "nominalQuota": str(quota.gpus)},
                        ],
                    }
                    for quota in quotas
                ],
            }
        ],
    }
