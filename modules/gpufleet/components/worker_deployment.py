"""The worker of an environment whose clusters are all real: at one site, in its own namespace."""

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components.site import DeclaredSite
from gpufleet.components.snapshot_jobs import SnapshotJobs
from gpufleet.components.worker_pod import SELECTOR, WorkerPlan, pod_spec
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.monitors import replaced
from gpufleet.core.monitoring.platform import WORKER_JOB


def deploy_worker(
    declared: DeclaredSite, opts: pulumi.ResourceOptions, after: Sequence[pulumi.Resource] = ()
) -> list[pulumi.Resource]:
    """Make the worker where this is its site, else nothing; what was made.

    Args:
        declared: the site of the stack.
        opts: with a provider that knows ServiceMonitors.
        after: what makes the namespaces that it manages, and its own.
    """
    if cluster_worker.worker_site(declared.fleet) != declared.name:
        return []
    worker = WorkerDeployment("worker", WorkerPlan.of(declared), opts, after)
    # Their pods use the worker's account, claim and files.
    return [worker, SnapshotJobs(declared, opts, [worker])]


class WorkerDeployment(pulumi.ComponentResource):
    """Two workers that share the environment's database: leases let one act on one target.

    The database's URL, the passphrase of the stacks' states, the object store's keys and the
    kubeconfig of further sites come from Secrets that an administrator makes; none enters a state.

    Args:
        name: of the component.
        plan: what it is made of.
        opts: with a provider that knows ServiceMonitors.
        after: what makes the namespaces that it manages.
    """

    def __init__(
        self,
        name: str,
        plan: WorkerPlan,
        opts: pulumi.ResourceOptions | None = None,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("gpufleet:platform:WorkerDeployment", name, None, opts)
        self._plan = plan
        self._labels = {names.MANAGED: "true", names.FLEET: plan.fleet, **SELECTOR}
        self._inside = pulumi.ResourceOptions(parent=self, depends_on=[*after])
        account = k8s.core.v1.ServiceAccount(
            names.WORKER, metadata=self._about(names.WORKER), opts=self._inside
        )
        self._roles()
        self._network()
        declared = self._config("declared", plan.data)
        access = self._config(
            "access", {"kubeconfig": yaml.safe_dump(cluster_worker.kubeconfig(plan.context))}
        )
        state = self._state()
        k8s.apps.v1.Deployment(
            names.WORKER,
            metadata=self._about(names.WORKER),
            spec=self._deployment(),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[account, declared, access, state]),
        )
        k8s.policy.v1.PodDisruptionBudget(
            names.WORKER,
            metadata=self._about(names.WORKER),
            spec={"selector": {"matchLabels": SELECTOR}, "maxUnavailable": 1},
            opts=self._inside,
        )
        self._metrics()
        self.register_outputs({"namespace": names.SYSTEM_NAMESPACE})

    def _about(self, name: str, namespace: str = names.SYSTEM_NAMESPACE) -> dict[str, Any]:
        return {"name": name, "namespace": namespace, "labels": self._labels}

    def _roles(self) -> None:
        subjects = [
            {
                "kind": "ServiceAccount",
                "name": names.WORKER,
                "namespace": names.SYSTEM_NAMESPACE,
            }
        ]
        group = "rbac.authorization.k8s.io"
        about = {"name": names.WORKER, "labels": self._labels}
        k8s.rbac.v1.ClusterRole(
            names.WORKER,
            metadata=about,
            rules=cluster_worker.cluster_rules(),
            opts=pulumi.ResourceOptions(parent=self),
        )
        k8s.rbac.v1.ClusterRoleBinding(
            names.WORKER,
            metadata=about,
            role_ref={"apiGroup": group, "kind": "ClusterRole", "name": names.WORKER},
            subjects=subjects,
            opts=pulumi.ResourceOptions(parent=self),
        )
        for namespace in names.GOVERNED_NAMESPACES:
            k8s.rbac.v1.Role(
                f"{names.WORKER}-{namespace}",
                metadata=self._about(names.WORKER, namespace),
                rules=cluster_worker.namespace_rules(namespace),
                opts=self._inside,
            )
            k8s.rbac.v1.RoleBinding(
                f"{names.WORKER}-{namespace}",
                metadata=self._about(names.WORKER, namespace),
                role_ref={"apiGroup": group, "kind": "Role", "name": names.WORKER},
                subjects=subjects,
                opts=self._inside,
            )

    def _network(self) -> None:
        """Everything is denied but what a worker needs; addresses outside are not ours to know."""
        dns = {"namespaceSelector": {"matchLabels": {names.NAMESPACE: "kube-system"}}}
        scraper = {names.NAMESPACE: names.PROMETHEUS_NAMESPACE}
        monitoring = {"namespaceSelector": {"matchLabels": scraper}}
        policies: dict[str, dict[str, Any]] = {
            "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
            names.WORKER: {
                "podSelector": {"matchLabels": SELECTOR},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [monitoring], "ports": [_tcp(names.WORKER_PORT)]}],
                "egress": [
                    {"to": [dns], "ports": [_tcp(53), {"port": 53, "protocol": "UDP"}]},
                    {"ports": [_tcp(port) for port in self._plan.ports]},
                ],
            },
        }
        for name, spec in policies.items():
            k8s.networking.v1.NetworkPolicy(
                f"worker-{name}", metadata=self._about(name), spec=spec, opts=self._inside
            )

    def _config(self, what: str, data: dict[str, str]) -> pulumi.Resource:
        name = f"{names.WORKER}-{what}"
        return k8s.core.v1.ConfigMap(name, metadata=self._about(name), data=data, opts=self._inside)

    def _state(self) -> pulumi.Resource:
        """The stacks' states: shared by the workers, and left where the stack is destroyed."""
        return k8s.core.v1.PersistentVolumeClaim(
            names.WORKER,
            # Where volumes are bound to the first pod, nothing would become of waiting here.
            metadata={
                **self._about(names.WORKER),
                "annotations": {"pulumi.com/skipAwait": "true"},
            },
            spec={
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "10Gi"}},
            },
            opts=pulumi.ResourceOptions.merge(
                self._inside, pulumi.ResourceOptions(retain_on_delete=True)
            ),
        )

    def _deployment(self) -> dict[str, Any]:
        return {
            "replicas": 2,
            "selector": {"matchLabels": SELECTOR},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": self._labels},
                "spec": pod_spec(self._plan),
            },
        }

    def _metrics(self) -> None:
        k8s.core.v1.Service(
            names.WORKER,
            metadata={**self._about(names.WORKER), "annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "clusterIP": "None",
                "selector": SELECTOR,
                "ports": [{"name": "metrics", "port": names.WORKER_PORT, "targetPort": "metrics"}],
            },
            opts=self._inside,
        )
        CustomResource(
            f"{names.WORKER}-metrics",
            api_version="monitoring.coreos.com/v1",
            kind="ServiceMonitor",
            metadata=self._about(names.WORKER),
            spec={
                "selector": {"matchLabels": SELECTOR},
                "endpoints": [
                    {
                        "port": "metrics",
                        "interval": "30s",
                        "relabelings": [replaced("job", WORKER_JOB)],
                    }
                ],
            },
            opts=self._inside,
        )


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}
