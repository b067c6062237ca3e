"""The names that gpufleet writes on Kubernetes objects, in one place."""

from typing import Final

from gpufleet.spec.serving import ServingClass

PRODUCT: Final = "gpufleet"
GROUP: Final = "gpufleet.dev"
MANAGED: Final = f"{GROUP}/managed"
FLEET: Final = f"{GROUP}/fleet"
POOL: Final = f"{GROUP}/pool"
CLASS: Final = f"{GROUP}/class"
MODEL: Final = f"{GROUP}/model"
TEAM: Final = f"{GROUP}/team"
USE_CASE: Final = f"{GROUP}/use-case"
REVISION_DIGEST: Final = f"{GROUP}/revision-digest"
SITE: Final = f"{GROUP}/site"
RACK: Final = f"{GROUP}/rack"
NODE_GROUP: Final = f"{GROUP}/node-group"
DRIVER_PIN: Final = f"{GROUP}/driver"
FIRMWARE_PIN: Final = f"{GROUP}/bmc"

GPU_RESOURCE: Final = "nvidia.com/gpu"
INTERACTIVE_NAMESPACE: Final = "gpufleet-interactive"
BATCH_NAMESPACE: Final = "gpufleet-batch"
GATEWAY_NAMESPACE: Final = "gpufleet-gateway"
MONITORING_NAMESPACE: Final = "gpufleet-monitoring"
NAMESPACES: Final = (
    INTERACTIVE_NAMESPACE,
    BATCH_NAMESPACE,
    GATEWAY_NAMESPACE,
    MONITORING_NAMESPACE,
)
DEFINITIONS_NAMESPACE: Final = "kube-system"
SYSTEM_NAMESPACE: Final = "gpufleet-system"
"""Of the worker: apart from everything that it manages."""
WORKER: Final = "gpufleet-worker"
"""Names the worker's Deployment, account, roles and Secret."""
WORKER_PORT: Final = 9100
"""Of the worker's metrics and readiness inside its pod."""
IMAGE_USER: Final = 10001
"""User and group of every container of ours."""


RUNTIME_CLASS: Final = "nvidia"
NAMESPACE: Final = "kubernetes.io/metadata.name"
WORKER_INDEX: Final = "leaderworkerset.sigs.k8s.io/worker-index"
QUEUE: Final = "kueue.x-k8s.io/queue-name"
CLUSTER_QUEUE: Final = "gpufleet-batch"
GATEWAY: Final = "gpufleet"
GATEWAY_PORT: Final = 4000


def is_batch(class_: ServingClass) -> bool:
    """Whether a class goes through Kueue and shares nothing with interactive work."""
    return class_ is ServingClass.BATCH


def namespace_of(class_: ServingClass) -> str:
    """The namespace of a pool's class: interactive and batch never share one."""
    return BATCH_NAMESPACE if is_batch(class_) else INTERACTIVE_NAMESPACE


def priority_class_of(class_: ServingClass) -> str:
    """The PriorityClass of a class's pods."""
    return f"gpufleet-{class_.value}"


def definitions_release(operator: str) -> str:
    """The Helm release that holds an operator's custom resource definitions."""
    return f"{operator}-crds"
