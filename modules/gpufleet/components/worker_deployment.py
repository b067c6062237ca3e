"""The worker of an environment whose clusters are all real: at one site, in its own namespace."""

from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components.pod_template import RESTRICTED_CONTAINER
from gpufleet.components.site import DeclaredSite
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.edges.declared_files import read_declared

HOME: Final = "/opt/gpufleet"
"""Of gpufleet in its image."""
_SECRETS: Final = "/run/secrets/gpufleet"
_GRACE_S: Final = 30
_SELECTOR: Final = {"app.kubernetes.io/name": names.WORKER}


@dataclass(frozen=True)
class WorkerPlan:
    """What the worker of an environment is made of."""

    fleet: str
    """Slug of the environment."""
    folder: str
    """The fleet's name: the folder of its files below `fleets/`."""
    fleet_file: str
    """Name of the fleet file in that folder."""
    context: str
    """Of the cluster that it runs in, as the fleet file names it."""
    image: str
    data: dict[str, str]
    paths: dict[str, str]
    """The declared files as a ConfigMap's data, and the path of each key."""
    ports: tuple[int, ...]
    """What it reaches outside of its namespace."""

    @classmethod
    def of(cls, declared: DeclaredSite) -> "WorkerPlan":
        """The plan for the site of a stack.

        Raises:
            BadInput: the declared files are larger than a ConfigMap.
        """
        files = read_declared(declared.fleet, declared.path)
        data, paths = cluster_worker.declared_data(files, str(declared.path))
        cluster = declared.fleet.sites[declared.name].cluster
        return cls(
            fleet=declared.fleet.slug,
            folder=declared.fleet.fleet,
            fleet_file=declared.path.name,
            context=getattr(cluster, "context", None) or declared.name,
            image=declared.fleet.images.gpufleet,
            data=data,
            paths=paths,
            ports=tuple(cluster_worker.egress_ports(declared.fleet)),
        )


def deploy_worker(declared: DeclaredSite, opts: pulumi.ResourceOptions) -> None:
    """Make the worker where this is its site, else nothing."""
    if cluster_worker.worker_site(declared.fleet) == declared.name:
        WorkerDeployment("worker", WorkerPlan.of(declared), opts)


class WorkerDeployment(pulumi.ComponentResource):
    """Two workers that share the environment's database: leases let one act on one target.

    The database's URL, the passphrase of the stacks' states, the object store's keys and the
    kubeconfig of further sites come from Secrets that an administrator makes; none enters a state.

    Args:
        name: of the component.
        plan: what it is made of.
        opts: with a provider that knows ServiceMonitors.
    """

    def __init__(
        self, name: str, plan: WorkerPlan, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("gpufleet:platform:WorkerDeployment", name, None, opts)
        self._plan = plan
        self._labels = {names.MANAGED: "true", names.FLEET: plan.fleet, **_SELECTOR}
        namespace = self._namespace()
        self._inside = pulumi.ResourceOptions(parent=self, depends_on=[namespace])
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
            spec={"selector": {"matchLabels": _SELECTOR}, "maxUnavailable": 1},
            opts=self._inside,
        )
        self._metrics()
        self.register_outputs({"namespace": names.SYSTEM_NAMESPACE})

    def _about(self, name: str, namespace: str = names.SYSTEM_NAMESPACE) -> dict[str, Any]:
        return {"name": name, "namespace": namespace, "labels": self._labels}

    def _namespace(self) -> pulumi.Resource:
        levels = {
            f"pod-security.kubernetes.io/{mode}": "restricted"
            for mode in ("enforce", "audit", "warn")
        }
        about = {"name": names.SYSTEM_NAMESPACE, "labels": {**self._labels, **levels}}
        return k8s.core.v1.Namespace(
            names.SYSTEM_NAMESPACE, metadata=about, opts=pulumi.ResourceOptions(parent=self)
        )

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
        for namespace in (*names.NAMESPACES, names.SYSTEM_NAMESPACE):
            k8s.rbac.v1.Role(
                f"{names.WORKER}-{namespace}",
                metadata=self._about(names.WORKER, namespace),
                rules=cluster_worker.namespace_rules(),
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
        monitoring = {"namespaceSelector": {"matchLabels": {names.NAMESPACE: "monitoring"}}}
        policies: dict[str, dict[str, Any]] = {
            "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
            names.WORKER: {
                "podSelector": {"matchLabels": _SELECTOR},
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
            "selector": {"matchLabels": _SELECTOR},
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
                "selector": _SELECTOR,
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
                "selector": {"matchLabels": _SELECTOR},
                "endpoints": [{"port": "metrics", "interval": "30s"}],
            },
            opts=self._inside,
        )


def pod_spec(plan: WorkerPlan) -> dict[str, Any]:
    """The worker's pod, as plain Kubernetes data."""
    return {
        "serviceAccountName": names.WORKER,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.IMAGE_USER,
            "runAsGroup": names.IMAGE_USER,
            "fsGroup": names.IMAGE_USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _SELECTOR},
            }
        ],
        "containers": [_container(plan)],
        "volumes": [
            {"name": "state", "persistentVolumeClaim": {"claimName": names.WORKER}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            {
                "name": "declared",
                "configMap": {
                    "name": f"{names.WORKER}-declared",
                    "items": [{"key": key, "path": path} for key, path in plan.paths.items()],
                },
            },
            {"name": "access", "configMap": {"name": f"{names.WORKER}-access"}},
            {
                "name": "secrets",
                "secret": {
                    "secretName": names.WORKER,
                    "optional": True,
                    "items": [
                        {"key": key, "path": key, "mode": 0o440}
                        for key in ("kubeconfig", "passphrase")
                    ],
                },
            },
        ],
    }


def _container(plan: WorkerPlan) -> dict[str, Any]:
    fleet_file = f"{HOME}/fleets/{plan.folder}/{plan.fleet_file}"
    probe = {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 10}
    url = {"secretKeyRef": {"name": names.WORKER, "key": "database-url"}}
    return {
        "name": "worker",
        "image": plan.image,
        "args": [
            "worker",
            f"--fleet={fleet_file}",
            f"--port={names.WORKER_PORT}",
            "--listen=0.0.0.0",
        ],
        "env": [
            {"name": "GPUFLEET_DATABASE_URL", "valueFrom": url},
            {"name": "GPUFLEET_PASSPHRASE_FILE", "value": f"{_SECRETS}/passphrase"},
            # The cluster that it runs in first, then the further sites of the environment.
            {"name": "KUBECONFIG", "value": f"/etc/gpufleet/kubeconfig:{_SECRETS}/kubeconfig"},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own folder
        ],
        "envFrom": [{"secretRef": {"name": "artifact-store", "optional": True}}],
        "ports": [{"name": "metrics", "containerPort": names.WORKER_PORT, "protocol": "TCP"}],
        # Pulumi's engine and provider stand in the worker's pod while they run.
        "resources": {
            "requests": {"cpu": "500m", "memory": "1Gi"},
            "limits": {"memory": "4Gi"},
        },
        "readinessProbe": {**probe, "failureThreshold": 3},
        # Not ready is not dead: a lost database passes, and flows go on where they were.
        "livenessProbe": {**probe, "initialDelaySeconds": 60, "failureThreshold": 30},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "state", "mountPath": f"{HOME}/.fleet"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
            {"name": "declared", "mountPath": f"{HOME}/fleets/{plan.folder}", "readOnly": True},
            {"name": "access", "mountPath": "/etc/gpufleet", "readOnly": True},
            {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
        ],
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}
