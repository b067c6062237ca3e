"""The Job of a batch, as plain Kubernetes data: a pool's own pod, with a client beside its engine.

The engine is a native sidecar, so that the pod ends when its shard is answered.
"""

from dataclasses import dataclass
from typing import Any, Final

from gpufleet.components.pod_template import RESTRICTED_CONTAINER, pod_spec
from gpufleet.core import vocabulary as names
from gpufleet.core.batch_jobs import EXIT_TOLD_TO_END, parallelism
from gpufleet.core.serving import ENGINE_PORT, PoolAtSite
from gpufleet.spec.batches import BatchOrder

_ONLY_FOR_SERVICES: Final = frozenset({"lifecycle", "readinessProbe"})
_ONLY_FOR_REPLICAS: Final = frozenset({"topologySpreadConstraints"})
_CLIENT: Final = "answer"
_GRACE_S: Final = 60
"""Time to keep what was answered when a replica takes the GPUs back."""
_TRIES: Final = 10
"""Further tries of a shard whose pod has failed. One that was told to end is no failure, but a
pod that has to go while its engine still loads cannot say so."""


@dataclass(frozen=True)
class BatchWork:
    """What the pods of one batch are told.

    Args:
        fleet: slug of the environment.
        image: gpufleet's own.
        bucket: where the shards are.
        endpoint: of the site's object store.
        region: that requests to it are signed for.
        shards: how many there are.
    """

    fleet: str
    image: str
    bucket: str
    endpoint: str
    region: str
    shards: int


def batch_job(order: BatchOrder, pool: PoolAtSite, work: BatchWork) -> dict[str, Any]:
    """The Job; Kueue lets it run when it has quota, with fewer pods where there is less."""
    labels = {
        names.FLEET: work.fleet,
        names.CLASS: pool.class_.value,
        names.MODEL: pool.model_name,
        names.TEAM: order.team,
        names.USE_CASE: order.use_case,
        names.BATCH_JOB: order.id,
        names.BATCH_POOL: pool.name,
    }
    queue = {
        names.MANAGED: "true",
        names.QUEUE: pool.name,
        names.QUEUE_PRIORITY: names.queue_priority_of(order.priority),
    }
    pods = parallelism(work.shards, pool)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": order.id,
            "namespace": pool.namespace,
            "labels": {**labels, **queue},
            # Kueue refuses it where it says nothing.
            "annotations": {names.FEWEST_PODS: "1"} if pods > 1 else {},
        },
        "spec": {
            "suspend": True,
            "completionMode": "Indexed",
            "completions": work.shards,
            "parallelism": pods,
            "backoffLimitPerIndex": _TRIES,
            "podFailurePolicy": {"rules": _no_failures()},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {names.REVISION_DIGEST: pool.model.digest},
                },
                "spec": _pod(order, pool, work),
            },
        },
    }


def _no_failures() -> list[dict[str, Any]]:
    """A lost node, an eviction; and Kueue, which suspends the Job to take its quota back."""
    told = {"containerName": _CLIENT, "operator": "In", "values": [EXIT_TOLD_TO_END]}
    return [
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {"action": "Ignore", "onExitCodes": told},
    ]


def _pod(order: BatchOrder, pool: PoolAtSite, work: BatchWork) -> dict[str, Any]:
    replica = pod_spec(pool, work.image)
    [engine] = replica["containers"]
    sidecar = {key: value for key, value in engine.items() if key not in _ONLY_FOR_SERVICES}
    return {
        **{key: value for key, value in replica.items() if key not in _ONLY_FOR_REPLICAS},
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_S,
        "initContainers": [*replica["initContainers"], {**sidecar, "restartPolicy": "Always"}],
        "containers": [_client(order, pool, work)],
    }


def _client(order: BatchOrder, pool: PoolAtSite, work: BatchWork) -> dict[str, Any]:
    return {
        "name": _CLIENT,
        "image": work.image,
        "args": [
            "batch.answer",
            f"--bucket={work.bucket}",
            f"--batch={order.id}",
            # Kubernetes puts the variable into every container of an indexed Job.
            "--index=$(JOB_COMPLETION_INDEX)",
            f"--engine=http://127.0.0.1:{ENGINE_PORT}",
            f"--concurrency={pool.concurrency_limit}",
            f"--endpoint={work.endpoint}",
            f"--region={work.region}",
            "--apply",
        ],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the pod's own folder
        "envFrom": [{"secretRef": {"name": names.ARTIFACT_STORE, "optional": True}}],
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"memory": "2Gi"},
        },
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - as above
    }
