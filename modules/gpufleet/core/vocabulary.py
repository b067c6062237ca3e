"""The names that gpufleet writes on Kubernetes objects, in one place."""

import hashlib
from typing import Final

from gpufleet.spec.batches import Priority
from gpufleet.spec.clusters import HOST_LABEL
from gpufleet.spec.serving import ServingClass

PRODUCT: Final = "gpufleet"
GROUP: Final = "gpufleet.dev"
MANAGED: Final = f"{GROUP}/managed"
FLEET: Final = f"{GROUP}/fleet"
POOL: Final = f"{GROUP}/pool"
CLASS: Final = f"{GROUP}/class"
MODEL: Final = f"{GROUP}/model"
BATCH_JOB: Final = f"{GROUP}/batch-job"
"""Label of the pods that answer a batch: never `POOL`, whose pods are replicas that serve."""
BATCH_POOL: Final = f"{GROUP}/batch-pool"
"""Label with the pool whose engine and node group these pods use."""
DRILL: Final = f"{GROUP}/drill"
"""Label of everything that a drill makes, with its flow's id; also the taint of its own nodes."""
TEAM: Final = f"{GROUP}/team"
USE_CASE: Final = f"{GROUP}/use-case"
REVISION_DIGEST: Final = f"{GROUP}/revision-digest"
SITE: Final = f"{GROUP}/site"
RACK: Final = f"{GROUP}/rack"
NODE_GROUP: Final = HOST_LABEL
GPU_ACCESS: Final = f"{GROUP}/gpu-access"
DRIVER_PIN: Final = f"{GROUP}/driver"
FIRMWARE_PIN: Final = f"{GROUP}/bmc"

GPU_RESOURCE: Final = "nvidia.com/gpu"
GPU_DEVICE_CLASS: Final = "gpu.nvidia.com"
"""Name of NVIDIA's DRA driver, and of the device class of its whole GPUs."""
CLAIMED_DEVICES: Final = f"{GPU_DEVICE_CLASS}.deviceclass.resource.k8s.io/devices"
"""What a ResourceQuota calls the GPUs that claims ask for."""
DEVICE_PLUGIN_SWITCH: Final = "nvidia.com/gpu.deploy.device-plugin"
"""Node label by which the GPU operator leaves its device plugin out."""
DRA_DRIVER_SWITCH: Final = "nvidia.com/gpu.deploy.dra-driver"
"""Node label by which the DRA driver runs on a node; a patch takes it away for its time."""
INTERACTIVE_NAMESPACE: Final = "gpufleet-interactive"
BATCH_NAMESPACE: Final = "gpufleet-batch"
GATEWAY_NAMESPACE: Final = "gpufleet-gateway"
MONITORING_NAMESPACE: Final = "gpufleet-monitoring"
SYSTEM_NAMESPACE: Final = "gpufleet-system"
PROMETHEUS_NAMESPACE: Final = "monitoring"
"""Of the operator's chart on a real cluster: its Prometheus scrapes pools and worker."""
NAMESPACES: Final = (
    INTERACTIVE_NAMESPACE,
    BATCH_NAMESPACE,
    GATEWAY_NAMESPACE,
    MONITORING_NAMESPACE,
)
POOL_NAMESPACES: Final = (INTERACTIVE_NAMESPACE, BATCH_NAMESPACE)
CACHE_NAMESPACE: Final = "gpufleet-cache"
"""Of the Jobs that fill nodes' caches: the only one whose pods may use a folder of their node."""
CACHE_FOLDER: Final = "/var/lib/gpufleet/cache"
"""On each node; that folder, and no other."""
NODE_CACHE: Final = "node-cache"
"""PersistentVolumeClaim by which the pods of a pools' namespace read their node's cache."""
ARTIFACT_STORE: Final = "artifact-store"
"""Secret with the keys of object stores, as AWS's variables; optional in each namespace."""
ARTIFACT_FILES: Final = "artifact-files"
"""Secret with what a pod needs as a file: the three below; optional in each namespace."""
SNAPSHOT_KEY: Final = "snapshot-key"
SIGNING_KEY: Final = "signing-key"
SNAPSHOT_KEY_VARIABLE: Final = "GPUFLEET_SNAPSHOT_KEY_FILE"
"""Environment variable that names the file of the key that chunks are encrypted with."""
SIGNING_KEY_VARIABLE: Final = "GPUFLEET_SIGNING_KEY_FILE"
"""The same for the private key that signs."""
STORE_AUTHORITY: Final = "ca.crt"
GOVERNED_NAMESPACES: Final = (*NAMESPACES, SYSTEM_NAMESPACE, CACHE_NAMESPACE)
"""Every namespace of ours: admission and freezes hold in all of them."""
POD_SECURITY: Final = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
}
"""Labels of every namespace of ours but `CACHE_NAMESPACE`."""
CACHE_SECURITY: Final = {
    "pod-security.kubernetes.io/enforce": "privileged",
    "pod-security.kubernetes.io/audit": "baseline",
}
"""Labels of `CACHE_NAMESPACE`: a folder of the node is more than Kubernetes' other levels allow;
what else its pods may not do says our own admission."""
DEFINITIONS_NAMESPACE: Final = "kube-system"
FREEZE_STATE: Final = "gpufleet-freeze"
"""ConfigMap that says whether a cluster is frozen; only `FREEZE_SYNC` may write it."""
FREEZE_SYNC: Final = "gpufleet-freeze-sync"
EXEMPT: Final = "gpufleet-exempt"
"""Service accounts whose short tokens the worker asks for, both in `SYSTEM_NAMESPACE`."""
FREEZE_KNOWN_UNTIL: Final = f"{GROUP}/freeze-known-until"
"""Annotation of our namespaces: until then the state holds, by the API server's clock."""
ADMISSION: Final = "gpufleet-admission"
"""ConfigMap with the sources, digests and names that admission allows."""
CONTROLLERS_GROUP: Final = "gpufleet:controllers"
"""Group of the operators and agents of an embedded site, in their client certificates."""
WORKER: Final = "gpufleet-worker"
"""Names the worker's Deployment, account, roles and Secret."""
SNAPSHOTS: Final = "gpufleet-snapshots"
"""Names the account of the CronJobs that take snapshots: it may do nothing in the cluster."""
WORKER_PORT: Final = 9100
"""Of the worker's metrics and readiness inside its pod."""
IMAGE_USER: Final = 10001
"""User and group of every container of ours."""


RUNTIME_CLASS: Final = "nvidia"
NAMESPACE: Final = "kubernetes.io/metadata.name"
HOSTNAME: Final = "kubernetes.io/hostname"
"""Node label that the kubelet sets."""
WORKER_INDEX: Final = "leaderworkerset.sigs.k8s.io/worker-index"
QUEUE: Final = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
FEWEST_PODS: Final = "kueue.x-k8s.io/job-min-parallelism"
"""Annotation of a Job that may run with fewer pods than it asks for."""
CLUSTER_QUEUE: Final = "gpufleet-batch"
GATEWAY: Final = "gpufleet"
GATEWAY_PORT: Final = 4000
GATEWAY_METRICS_PORT: Final = 9100
"""Of its control process's metrics and readiness inside its pod."""
GATEWAY_ROUTES: Final = "gateway-routes"
"""ConfigMap with what the gateway is told, as JSON under `ROUTES_FILE`."""
GATEWAY_TLS: Final = "gpufleet-gateway-tls"
"""Secret with the certificate that clients of the gateway see; an administrator makes it."""
GATEWAY_ACCOUNT: Final = "gpufleet-gateway"
"""Names the gateway's Deployment, account, roles and Secret."""


def cron_job_of(revision: str, *, protects: bool) -> str:
    """The CronJob that takes a revision's snapshots, or protected sets."""
    # A CronJob's name has 52 characters at most, since those of its Jobs are longer.
    mark = hashlib.sha256(revision.encode()).hexdigest()[:8]
    short = revision.replace(".", "-")[:32].rstrip("-")
    return "gpufleet-protect" if protects else f"snapshot-{short}-{mark}"


def is_batch(class_: ServingClass) -> bool:
    """Whether a class goes through Kueue and shares nothing with interactive work."""
    return class_ is ServingClass.BATCH


def namespace_of(class_: ServingClass) -> str:
    """The namespace of a pool's class: interactive and batch never share one."""
    return BATCH_NAMESPACE if is_batch(class_) else INTERACTIVE_NAMESPACE


def priority_class_of(class_: ServingClass) -> str:
    """The PriorityClass of a class's pods."""
    return f"gpufleet-{class_.value}"


def queue_priority_of(priority: Priority) -> str:
    """The WorkloadPriorityClass of batches with a priority."""
    return f"gpufleet-batch-{priority.value}"


def management_provider(site: str) -> str:
    """The Pulumi provider of a site's management cluster."""
    return f"{site}-management"


def definitions_release(operator: str) -> str:
    """The Helm release that holds an operator's custom resource definitions."""
    return f"{operator}-crds"


def metric_label(name: str) -> str:
    """A Kubernetes label as Prometheus' service discovery writes it."""
    return name.replace(".", "_").replace("/", "_").replace("-", "_")
