"""The Job that restores a snapshot to the nodes of a group, as plain Kubernetes data.

One index is one node. A Job cannot tell its indexes apart, so each pod is made behind a scheduling
gate, and whoever runs the restore names its node and opens the gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpufleet.components import store_access
from gpufleet.core import vocabulary as names
from gpufleet.core.weights import StoreAccess, files_of

GATE: Final = f"{names.GROUP}/node"
NODES: Final = f"{names.GROUP}/restore-nodes"
"""Annotation of the Job: the host name of each index, as a JSON list."""
INDEX: Final = "batch.kubernetes.io/job-completion-index"
_TRIES: Final = 3
"""Further tries on one node; what is there is not fetched again."""
_KEPT_FOR_S: Final = 86_400
_CACHE: Final = "/cache"


@dataclass(frozen=True)
class RestoreWork:
    """What the pods are told."""

    job: str
    fleet: str
    """Slug of the environment."""
    image: str
    """gpufleet's own."""
    snapshot: str
    revision: str
    node_group: str
    nodes: int
    parallelism: int
    bucket: str
    store: StoreAccess
    encrypted: bool
    """Whether chunks are encrypted with a key of the client's."""


def restore_job(
    work: RestoreWork,
    hosts: str,
    marks: Mapping[str, str] | None = None,
    ends_within_s: int | None = None,
) -> dict[str, Any]:
    """The Job.

    Args:
        work: what its pods are told.
        hosts: of each index, as a JSON list.
        marks: more annotations.
        ends_within_s: when Kubernetes ends it, whatever still waits; None for never.
    """
    labels = {names.MANAGED: "true", names.FLEET: work.fleet, names.NODE_GROUP: work.node_group}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": work.job,
            "namespace": names.CACHE_NAMESPACE,
            "labels": labels,
            "annotations": {NODES: hosts, **(marks or {})},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": work.nodes,
            "parallelism": work.parallelism,
            "backoffLimitPerIndex": _TRIES,
            # One broken node holds up no other.
            "maxFailedIndexes": work.nodes,
            "ttlSecondsAfterFinished": _KEPT_FOR_S,
            **({"activeDeadlineSeconds": ends_within_s} if ends_within_s else {}),
            "template": {"metadata": {"labels": labels}, "spec": _pod(work)},
        },
    }


def opened(host: str) -> dict[str, Any]:
    """The strategic merge patch that sends a pod to its node."""
    return {
        "spec": {
            "nodeSelector": {names.HOSTNAME: host},
            "schedulingGates": [{"$patch": "delete", "name": GATE}],
        }
    }


def _pod(work: RestoreWork) -> dict[str, Any]:
    files = files_of(work.store, encrypted=work.encrypted)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "schedulingGates": [{"name": GATE}],
        "nodeSelector": {names.NODE_GROUP: work.node_group},
        "tolerations": [{"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
        # The folder on the node belongs to root; it has no capability that would let it be more.
        "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "restore",
                "image": work.image,
                "args": [
                    "snapshot.fill",
                    f"--snapshot={work.snapshot}",
                    f"--to={_CACHE}/{work.revision}",
                    f"--bucket={work.bucket}",
                    *store_access.arguments(work.store),
                    # The pods of pools read it as another user.
                    "--readable",
                    "--apply",
                    "--json",
                ],
                **store_access.environment(files),
                "resources": {
                    "requests": {"cpu": "2", "memory": "1Gi"},
                    "limits": {"memory": "2Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "cache", "mountPath": _CACHE},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own folder
                    *store_access.mounts(files),
                ],
            }
        ],
        "volumes": [
            {
                "name": "cache",
                "hostPath": {"path": names.CACHE_FOLDER, "type": "DirectoryOrCreate"},
            },
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            *store_access.volumes(files),
        ],
    }
