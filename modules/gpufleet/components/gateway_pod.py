"""The gateway's pod on a cluster, as plain Kubernetes data: LiteLLM's proxy and its control."""

from dataclasses import dataclass
from typing import Any, Final

from gpufleet.components.pod_template import RESTRICTED_CONTAINER
from gpufleet.components.site import DeclaredSite
from gpufleet.components.worker_pod import HOME as CONTROL_HOME
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_gateway import SELECTOR
from gpufleet.core.gateway.drain import drain_s
from gpufleet.core.gateway.routes import routes_of
from gpufleet.edges.declared_files import read_declared

HOME: Final = "/opt/gateway"
"""Of the gateway in its image."""
FOLDER: Final = "/run/gpufleet/gateway"
"""What its two containers share."""
_SECRETS: Final = "/run/secrets/gpufleet"
_MARGIN_S: Final = 20
"""Until what does not end in time is interrupted, and recorded."""
_PROPAGATION_S: Final = 5
"""Until every proxy has stopped to send new requests to a pod that is going away."""
_SHIP_S: Final = 15
"""Then the control process brings the last audit records away."""
_WORKER_MEMORY_GIB: Final = 1


@dataclass(frozen=True)
class GatewayPlan:
    """What the gateway at one site is made of."""

    fleet: str
    """Slug of the environment."""
    folder: str
    """The fleet's name: the folder of its files below `fleets/`."""
    fleet_file: str
    context: str
    """Of the cluster that it runs in, as the fleet file names it."""
    image: str
    control_image: str
    replicas: int
    workers: int
    drain_s: int
    """Requests in flight get this long to end."""
    data: dict[str, str]
    paths: dict[str, str]
    """The declared files as a ConfigMap's data, and the path of each key."""
    ports: tuple[int, ...]
    """What it reaches beside the engines."""

    @classmethod
    def of(cls, declared: DeclaredSite, image: str) -> "GatewayPlan":
        """The plan for the site of a stack.

        Args:
            declared: the site.
            image: of the gateway.

        Raises:
            BadInput: the declared files are larger than a ConfigMap.
        """
        fleet = declared.fleet
        files = read_declared(fleet, declared.path)
        data, paths = cluster_worker.declared_data(files, str(declared.path))
        return cls(
            fleet=fleet.slug,
            folder=fleet.fleet,
            fleet_file=declared.path.name,
            context=getattr(declared.cluster, "context", None) or declared.name,
            image=image,
            control_image=fleet.images.gpufleet,
            replicas=fleet.gateway.replicas,
            workers=fleet.gateway.workers,
            drain_s=drain_s(routes_of(fleet)),
            data=data,
            paths=paths,
            ports=tuple(cluster_worker.egress_ports(fleet)),
        )


def pod_spec(plan: GatewayPlan) -> dict[str, Any]:
    """The gateway's pod, as plain Kubernetes data."""
    declared = [{"key": key, "path": path} for key, path in plan.paths.items()]
    return {
        "serviceAccountName": names.GATEWAY_ACCOUNT,
        "enableServiceLinks": False,
        # So that the control process sees which workers have ended.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": _PROPAGATION_S + plan.drain_s + _MARGIN_S + _SHIP_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.IMAGE_USER,
            "runAsGroup": names.IMAGE_USER,
            "fsGroup": names.IMAGE_USER,
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
        "initContainers": [_control(plan)],
        "containers": [_proxy(plan)],
        "volumes": [
            {"name": "shared", "emptyDir": {"sizeLimit": "4Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "metrics", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
            {
                "name": "declared",
                "configMap": {"name": f"{names.GATEWAY_ACCOUNT}-declared", "items": declared},
            },
            {"name": "access", "configMap": {"name": f"{names.GATEWAY_ACCOUNT}-access"}},
            {
                "name": "secrets",
                "secret": {
                    "secretName": names.GATEWAY_ACCOUNT,
                    "items": [{"key": "salt", "path": "salt", "mode": 0o440}],
                },
            },
            {
                "name": "sites",
                "secret": {
                    "secretName": f"{names.GATEWAY_ACCOUNT}-sites",
                    "optional": True,
                    "items": [{"key": "kubeconfig", "path": "kubeconfig", "mode": 0o440}],
                },
            },
        ],
    }


def _proxy(plan: GatewayPlan) -> dict[str, Any]:
    def probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": f"/health/{path}", "port": "http"},
            "periodSeconds": period_s,
            "timeoutSeconds": 3,
            "failureThreshold": failures,
        }

    memory_gib = _WORKER_MEMORY_GIB * (1 + plan.workers)
    return {
        "name": "gateway",
        "image": plan.image,
        "command": [f"{HOME}/.venv/bin/python", "-P", "-m", "gpufleet_gateway"],
        "args": [
            f"--folder={FOLDER}",
            "--host=0.0.0.0",
            f"--port={names.GATEWAY_PORT}",
            f"--workers={plan.workers}",
        ],
        "env": [
            {"name": "PYTHONPATH", "value": f"{HOME}/gateway"},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own folder
        ],
        # Keys of hosted APIs: GPUFLEET_HOSTED_KEY_...
        "envFrom": [{"secretRef": {"name": f"{names.GATEWAY_ACCOUNT}-hosted", "optional": True}}],
        "ports": [{"name": "http", "containerPort": names.GATEWAY_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": str(plan.workers), "memory": f"{memory_gib}Gi"},
            "limits": {"memory": f"{2 * memory_gib}Gi"},
        },
        "startupProbe": probe("readiness", 2, 60),
        "readinessProbe": probe("readiness", 5, 2),
        "livenessProbe": probe("liveliness", 20, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PROPAGATION_S}}},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "shared", "mountPath": FOLDER},
            {"name": "metrics", "mountPath": f"{FOLDER}/metrics"},
            # One for all pods: the same prompt has the same hash in every record.
            {"name": "secrets", "mountPath": f"{FOLDER}/salt", "subPath": "salt", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
        ],
    }


def _control(plan: GatewayPlan) -> dict[str, Any]:
    fleets = f"{CONTROL_HOME}/fleets/{plan.folder}"
    probe = {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 10}
    url = {"secretKeyRef": {"name": names.GATEWAY_ACCOUNT, "key": "database-url"}}
    return {
        "name": "control",
        # A sidecar ends after the proxy, whose last audit records it ships.
        "restartPolicy": "Always",
        "image": plan.control_image,
        "args": [
            "gateway.control",
            f"--fleet={fleets}/{plan.fleet_file}",
            f"--folder={FOLDER}",
            f"--port={names.GATEWAY_METRICS_PORT}",
            "--listen=0.0.0.0",
        ],
        "env": [
            {"name": "GPUFLEET_DATABASE_URL", "valueFrom": url},
            # The cluster that it runs in first, then the further sites of the environment.
            {"name": "KUBECONFIG", "value": f"/etc/gpufleet/kubeconfig:{_SECRETS}/kubeconfig"},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own folder
        ],
        "envFrom": [{"secretRef": {"name": names.ARTIFACT_STORE, "optional": True}}],
        "ports": [
            {"name": "metrics", "containerPort": names.GATEWAY_METRICS_PORT, "protocol": "TCP"}
        ],
        "resources": {
            "requests": {"cpu": "250m", "memory": "512Mi"},
            "limits": {"memory": "1Gi"},
        },
        "readinessProbe": {**probe, "failureThreshold": 3},
        # Not ready is not dead: the workers go on with what they know.
        "livenessProbe": {**probe, "initialDelaySeconds": 60, "failureThreshold": 30},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "shared", "mountPath": FOLDER},
            {"name": "metrics", "mountPath": f"{FOLDER}/metrics"},
            {"name": "metrics", "mountPath": f"{FOLDER}/metrics"},
            {"name": "tmp", "mountPath": f"{CONTROL_HOME}/.fleet", "subPath": "fleet"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
            {"name": "declared", "mountPath": fleets, "readOnly": True},
            {"name": "access", "mountPath": "/etc/gpufleet", "readOnly": True},
            {"name": "sites", "mountPath": _SECRETS, "readOnly": True},
        ],
    }
