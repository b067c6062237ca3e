"""One pool on one site: everything Kubernetes needs to serve it."""

from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components.pod_template import metadata, pod_spec
from gpufleet.core import autoscaling, claims, image_pull
from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENGINE_PORT, PoolAtSite
from gpufleet.spec.fleet import Fleet

_SKIP_AWAIT: Final = {"pulumi.com/skipAwait": "true"}
_AWAIT_SEEN: Final = {"pulumi.com/waitFor": "jsonpath={.metadata.uid}"}
"""Nothing in the stack needs the replicas: `up` and `change` wait for those of all pools at once.
Not `skipAwait`: that would also end a deletion, and what replaces it, before the object is gone."""


@dataclass(frozen=True)
class PoolContext:
    """What a pool has from its fleet and from the platform stack of its site."""

    fleet: Fleet
    prometheus_url: pulumi.Output[str]


class ServingPool(pulumi.ComponentResource):
    """A pool's workload with its service, disruption budget, network rules and scaling.

    Outputs:
        service: DNS name and port inside the cluster.
    """

    def __init__(
        self,
        pool: PoolAtSite,
        context: PoolContext,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:serving:ServingPool", pool.name, None, opts)
        self._pool = pool
        self._context = context
        self._children = pulumi.ResourceOptions(parent=self)
        account = k8s.core.v1.ServiceAccount(
            pool.name,
            metadata=self._metadata(),
            automount_service_account_token=False,
            opts=self._children,
        )
        self._network_policy()
        workload = self._workload([account, *self._claim_template()])
        self._service()
        self._disruption_budget()
        if pool.autoscaled:
            self._scaled_object(workload)
        if pool.autoscaled and pool.prewarm:
            self._pulled_ahead()
        self.service = f"{pool.name}.{pool.namespace}.svc:{ENGINE_PORT}"
        self.register_outputs({"service": self.service})

    def _metadata(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - plain Kubernetes data
        pool = self._pool
        labels = {**pool.labels, names.MANAGED: "true", **more.pop("labels", {})}
        return {"name": pool.name, "namespace": pool.namespace, "labels": labels, **more}

    def _claim_template(self) -> list[pulumi.Resource]:
        """What each pod's claim is made from, where the node group's GPUs are claimed."""
        pool = self._pool
        if pool.claim_template is None:
            return []
        template = CustomResource(
            pool.claim_template,
            api_version="resource.k8s.io/v1",
            kind="ResourceClaimTemplate",
            metadata={**self._metadata(), "name": pool.claim_template},
            spec=claims.claim_template(pool),
            opts=self._children,
        )
        return [template]

    def _workload(self, after: list[pulumi.Resource]) -> pulumi.Resource:
        pool = self._pool
        labels = {names.QUEUE: pool.name} if names.is_batch(pool.class_) else {}
        about = self._metadata(labels=labels, annotations=_AWAIT_SEEN)
        opts = pulumi.ResourceOptions(
            parent=self,
            depends_on=after,
            # Made with its minimum, and then the autoscaler's: two owners of one field fight.
            ignore_changes=["spec.replicas"] if pool.autoscaled else None,
            custom_timeouts=pulumi.CustomTimeouts(
                create=f"{pool.rollout_timeout_s}s", update=f"{pool.rollout_timeout_s}s"
            ),
        )
        if pool.spans_nodes:
            return CustomResource(
                pool.name,
                api_version="leaderworkerset.x-k8s.io/v1",
                kind="LeaderWorkerSet",
                metadata=about,
                spec=self._leader_worker_set(),
                opts=opts,
            )
        return k8s.apps.v1.Deployment(
            pool.name,
            metadata=about,
            spec={
                "replicas": pool.replicas,
                "selector": {"matchLabels": {names.POOL: pool.name}},
                "revisionHistoryLimit": 5,
                "progressDeadlineSeconds": pool.rollout_timeout_s,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": self._surge(),
                },
                "template": {
                    "metadata": metadata(pool),
                    "spec": pod_spec(pool, self._context.fleet.images.gpufleet),
                },
            },
            opts=opts,
        )

    def _surge(self) -> dict[str, int]:
        surge = self._pool.surge
        return {"maxSurge": surge.max_surge, "maxUnavailable": surge.max_unavailable}

    def _leader_worker_set(self) -> dict[str, Any]:
        pool = self._pool
        image = self._context.fleet.images.gpufleet
        return {
            "replicas": pool.replicas,
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": self._surge(),
            },
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": pool.nodes_per_replica,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {
                    "metadata": metadata(pool),
                    "spec": pod_spec(pool, image),
                },
                "workerTemplate": {
                    "metadata": metadata(pool),
                    "spec": pod_spec(pool, image, leader=False),
                },
            },
        }

    def _service(self) -> None:
        pool = self._pool
        selector = {names.POOL: pool.name}
        if pool.spans_nodes:
            selector[names.WORKER_INDEX] = "0"
        # A LeaderWorkerSet has a headless service of its own name already.
        name = f"{pool.name}-serve" if pool.spans_nodes else pool.name
        k8s.core.v1.Service(
            pool.name,
            # Ready endpoints are the workload's business; the Service itself is there at once.
            metadata={**self._metadata(annotations=_SKIP_AWAIT), "name": name},
            spec={
                "type": "ClusterIP",
                "selector": selector,
                "ports": [{"name": "http", "port": ENGINE_PORT, "targetPort": "http"}],
            },
            opts=self._children,
        )

    def _disruption_budget(self) -> None:
        pool = self._pool
        k8s.policy.v1.PodDisruptionBudget(
            pool.name,
            metadata=self._metadata(),
            spec={
                "selector": {"matchLabels": {names.POOL: pool.name}},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                **(
                    {"minAvailable": pool.pods - pool.disruptions}
                    if pool.spans_nodes
                    else {"maxUnavailable": pool.disruptions}
                ),
            },
            opts=self._children,
        )

    def _network_policy(self) -> None:
        pool = self._pool
        selector = {"podSelector": {"matchLabels": {names.POOL: pool.name}}}
        ingress: list[dict[str, Any]] = [
            {
                "from": [{"namespaceSelector": {"matchLabels": {names.NAMESPACE: allowed}}}],
                "ports": [{"port": ENGINE_PORT, "protocol": "TCP"}],
            }
            for allowed in self._clients()
        ]
        store = [{"port": port, "protocol": "TCP"} for port in pool.weights.ports]
        egress: list[dict[str, Any]] = [{"ports": store}]
        if pool.spans_nodes:
            # NCCL picks its ports itself: between the pods of a pool every port is open.
            ingress.append({"from": [selector]})
            egress.append({"to": [selector]})
        k8s.networking.v1.NetworkPolicy(
            pool.name,
            metadata=self._metadata(),
            spec={
                **selector,
                "policyTypes": ["Ingress", "Egress"],
                "ingress": ingress,
                "egress": egress,
            },
            opts=self._children,
        )

    def _clients(self) -> list[str]:
        """Namespaces that ask the engines; the worker does where it proves that they are warm."""
        asks = [names.GATEWAY_NAMESPACE, names.PROMETHEUS_NAMESPACE]
        return [*asks, names.SYSTEM_NAMESPACE] if self._pool.prewarm else asks

    def _pulled_ahead(self) -> None:
        name = f"{self._pool.name}-image"
        k8s.apps.v1.DaemonSet(
            name,
            metadata={**self._metadata(annotations=_AWAIT_SEEN), "name": name},
            spec=image_pull.daemon_set(self._pool),
            opts=self._children,
        )

    def _scaled_object(self, workload: pulumi.Resource) -> None:
        pool = self._pool
        full = autoscaling.full_replica(self._context.fleet, pool)
        CustomResource(
            f"{pool.name}-scale",
            api_version="keda.sh/v1alpha1",
            kind="ScaledObject",
            metadata=self._metadata(),
            spec=self._context.prometheus_url.apply(
                lambda url: autoscaling.scaled_object(pool, full, url)
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[workload]),
        )
