"""The gateway's pods at a site whose cluster is real."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components.gateway_pod import GatewayPlan, pod_spec
from gpufleet.components.site import DeclaredSite
from gpufleet.core import cluster_gateway, cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_gateway import SELECTOR
from gpufleet.core.monitoring.monitors import replaced
from gpufleet.core.monitoring.objectives import GATEWAY_JOB


def deploy_gateway(declared: DeclaredSite, opts: pulumi.ResourceOptions) -> None:
    """Make the gateway's pods where its image is declared and the site is not embedded."""
    image = declared.fleet.images.gateway
    if image is not None and cluster_gateway.runs_at(declared.fleet, declared.name):
        GatewayDeployment("gateway-pods", GatewayPlan.of(declared, image), opts)


class GatewayDeployment(pulumi.ComponentResource):
    """LiteLLM's proxy with its control process beside it, in as many pods as are declared.

    The database's URL and the salt of hashes come from the Secret `gpufleet-gateway`, keys of
    hosted APIs from `gpufleet-gateway-hosted`, contexts of further sites from
    `gpufleet-gateway-sites`: an administrator makes them, and none enters a state.

    Args:
        name: of the component.
        plan: what it is made of.
        opts: with a provider that knows ServiceMonitors.
    """

    def __init__(
        self, name: str, plan: GatewayPlan, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gpufleet:serving:GatewayDeployment", name, None, opts)
        self._plan = plan
        self._labels = {names.MANAGED: "true", names.FLEET: plan.fleet, **SELECTOR}
        self._inside = pulumi.ResourceOptions(parent=self)
        about = self._about(names.GATEWAY_ACCOUNT)
        account = k8s.core.v1.ServiceAccount(
            names.GATEWAY_ACCOUNT, metadata=about, opts=self._inside
        )
        self._roles()
        k8s.networking.v1.NetworkPolicy(
            names.GATEWAY_ACCOUNT,
            metadata=about,
            spec=cluster_gateway.network_policy(list(plan.ports)),
            opts=self._inside,
        )
        kubeconfig = cluster_worker.kubeconfig(plan.context)
        declared = self._config("declared", plan.data)
        access = self._config("access", {"kubeconfig": yaml.safe_dump(kubeconfig)})
        k8s.apps.v1.Deployment(
            names.GATEWAY_ACCOUNT,
            metadata=about,
            spec={
                "replicas": plan.replicas,
                "selector": {"matchLabels": SELECTOR},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "template": {"metadata": {"labels": self._labels}, "spec": pod_spec(plan)},
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[account, declared, access]),
        )
        k8s.policy.v1.PodDisruptionBudget(
            names.GATEWAY_ACCOUNT,
            metadata=about,
            spec={"selector": {"matchLabels": SELECTOR}, "maxUnavailable": 1},
            opts=self._inside,
        )
        self._metrics()
        self.register_outputs({"namespace": names.GATEWAY_NAMESPACE})

    def _about(self, name: str, namespace: str = names.GATEWAY_NAMESPACE) -> dict[str, Any]:
        return {"name": name, "namespace": namespace, "labels": self._labels}

    def _config(self, what: str, data: dict[str, str]) -> pulumi.Resource:
        name = f"{names.GATEWAY_ACCOUNT}-{what}"
        return k8s.core.v1.ConfigMap(name, metadata=self._about(name), data=data, opts=self._inside)

    def _roles(self) -> None:
        """An administrator's `up` makes them: the worker may grant nothing."""
        name = names.GATEWAY_ACCOUNT
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": names.GATEWAY_NAMESPACE}]
        for namespace in (names.GATEWAY_NAMESPACE, *names.POOL_NAMESPACES):
            k8s.rbac.v1.Role(
                f"{name}-{namespace}",
                metadata=self._about(name, namespace),
                rules=cluster_gateway.role_rules(namespace),
                opts=self._inside,
            )
            k8s.rbac.v1.RoleBinding(
                f"{name}-{namespace}",
                metadata=self._about(name, namespace),
                role_ref={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                subjects=subjects,
                opts=self._inside,
            )

    def _metrics(self) -> None:
        name = f"{names.GATEWAY_ACCOUNT}-metrics"
        port = names.GATEWAY_METRICS_PORT
        labels = {**self._labels, "app.kubernetes.io/component": "metrics"}
        about = {**self._about(name), "labels": labels}
        k8s.core.v1.Service(
            name,
            metadata={**about, "annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "clusterIP": "None",
                "selector": SELECTOR,
                "ports": [{"name": "metrics", "port": port, "targetPort": "metrics"}],
            },
            opts=self._inside,
        )
        CustomResource(
            name,
            api_version="monitoring.coreos.com/v1",
            kind="ServiceMonitor",
            metadata=about,
            spec={
                "selector": {"matchLabels": {"app.kubernetes.io/component": "metrics", **SELECTOR}},
                "endpoints": [
                    {
                        "port": "metrics",
                        "interval": "15s",
                        "relabelings": [replaced("job", GATEWAY_JOB)],
                    }
                ],
            },
            opts=self._inside,
        )
