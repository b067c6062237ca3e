"""The worker's pod on a cluster, as plain Kubernetes data: image, probes, files, secrets."""

from dataclasses import dataclass
from typing import Any, Final

from gpufleet.components import store_access
from gpufleet.components.pod_template import RESTRICTED_CONTAINER
from gpufleet.components.site import DeclaredSite
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.edges.declared_files import read_declared

HOME: Final = "/opt/gpufleet"
"""Of gpufleet in its image."""
_SECRETS: Final = "/run/secrets/gpufleet"
_GRACE_S: Final = 30
SELECTOR: Final = {"app.kubernetes.io/name": names.WORKER}


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
    keys: tuple[str, ...] = ()
    """Keys of the Secret with the files that snapshots are encrypted and signed with."""

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
            keys=cluster_worker.key_files(declared.fleet),
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
                "labelSelector": {"matchLabels": SELECTOR},
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
            *store_access.volumes(plan.keys),
        ],
    }


def fleet_file_of(plan: WorkerPlan) -> str:
    """Where the fleet file is in the pod."""
    return f"{HOME}/fleets/{plan.folder}/{plan.fleet_file}"


def _container(plan: WorkerPlan) -> dict[str, Any]:
    fleet_file = fleet_file_of(plan)
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
            *store_access.variables(plan.keys),
        ],
        "envFrom": [{"secretRef": {"name": names.ARTIFACT_STORE, "optional": True}}],
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
            *store_access.mounts(plan.keys),
        ],
    }
