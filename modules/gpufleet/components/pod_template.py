"""The pod of a replica, as plain Kubernetes data: restore, engine, probes, drain, volumes."""

from importlib import resources
from typing import Any, Final

from gpufleet.components import store_access
from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENDPOINT_PROPAGATION_S, ENGINE_PORT, PoolAtSite, Probe

WEIGHTS: Final = "/models/revision"
_CACHE: Final = "/node-cache"
RESTRICTED_CONTAINER: Final[dict[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_CACHES: Final = {"HOME": "/cache/home", "VLLM_CACHE_ROOT": "/cache/vllm", "TMPDIR": "/tmp"}  # noqa: S108 - the pod's own memory-backed folder
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def metadata(pool: PoolAtSite) -> dict[str, Any]:
    """Labels and annotations of every pod of the pool."""
    return {
        "labels": dict(pool.labels),
        "annotations": {
            names.REVISION_DIGEST: pool.model.digest,
            f"{names.USE_CASE}s": ",".join(pool.use_cases),
            f"{names.TEAM}s": ",".join(pool.teams),
        },
    }


def pod_spec(
    pool: PoolAtSite, restore_image: str, *, leader: bool = True, cache: bool = True
) -> dict[str, Any]:
    """The pod's spec.

    Args:
        pool: the pool with its derived numbers.
        restore_image: gpufleet's image, which restores the weights by digest.
        leader: False for the further pods of a replica that spans nodes: they serve no requests.
        cache: whether the namespace has the claim by which a node's cache is read.
    """
    return {
        **_claims(pool),
        "automountServiceAccountToken": False,
        "serviceAccountName": pool.name,
        "enableServiceLinks": False,
        "priorityClassName": names.priority_class_of(pool.class_),
        "runtimeClassName": names.RUNTIME_CLASS,
        "terminationGracePeriodSeconds": pool.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {names.NODE_GROUP: pool.group_name},
        "tolerations": _tolerations(pool),
        "topologySpreadConstraints": [_spread(pool, names.RACK), _spread(pool, _HOSTNAME)],
        "initContainers": [_restore(pool, restore_image, cache=cache)],
        "containers": [_engine(pool, leader=leader, cache=cache)],
        "volumes": _volumes(pool, cache=cache),
    }


_HOSTNAME: Final = "kubernetes.io/hostname"
_CLAIM: Final = "gpus"


def _claims(pool: PoolAtSite) -> dict[str, Any]:
    """The claim that each pod gets from the pool's template, where devices are claimed."""
    if pool.claim_template is None:
        return {}
    claim = {"name": _CLAIM, "resourceClaimTemplateName": pool.claim_template}
    return {"resourceClaims": [claim]}


def _resources(pool: PoolAtSite) -> dict[str, Any]:
    """CPU, memory and GPUs of the engine; GPUs are counted, or come by the pod's claim."""
    memory = {"memory": str(pool.memory_bytes)}
    if pool.claim_template is not None:
        requests = {"cpu": str(pool.cpus), **memory}
        return {"requests": requests, "limits": memory, "claims": [{"name": _CLAIM}]}
    gpus = {names.GPU_RESOURCE: str(pool.gpus_per_node)}
    return {"requests": {"cpu": str(pool.cpus), **memory, **gpus}, "limits": {**memory, **gpus}}


def _tolerations(pool: PoolAtSite) -> list[dict[str, Any]]:
    lost = [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": pool.not_ready_toleration_s,
        }
        for condition in ("not-ready", "unreachable")
    ]
    return [{"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}, *lost]


def _spread(pool: PoolAtSite, topology_key: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {names.POOL: pool.name}},
    }


def _restore(pool: PoolAtSite, image: str, *, cache: bool) -> dict[str, Any]:
    """Brings the weights to node-local storage, verified against the revision's digest."""
    weights = pool.weights
    return {
        "name": "restore-weights",
        "image": image,
        "args": [
            "snapshot.weights",
            f"--source={weights.source}",
            f"--digest={weights.digest}",
            f"--to={WEIGHTS}",
            *([f"--cache={_CACHE}"] if cache else []),
            *store_access.arguments(weights.store),
            "--apply",
        ],
        **store_access.environment(weights.files),
        "resources": {
            "requests": {"cpu": "2", "memory": "2Gi"},
            "limits": {"memory": "4Gi"},
        },
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            _mount("weights", "/models"),
            _mount("tmp", "/tmp"),  # noqa: S108
            *_cache_mounts(cache=cache),
            *store_access.mounts(weights.files),
        ],
    }


def _cache_mounts(*, cache: bool) -> list[dict[str, Any]]:
    # The engine too: what it loads may be a link into it.
    return [{**_mount(names.NODE_CACHE, _CACHE), "readOnly": True}] if cache else []


def _engine(pool: PoolAtSite, *, leader: bool, cache: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "engine",
        "image": pool.model.engine.image,
        "command": ["vllm", "serve", WEIGHTS],
        "args": [*pool.arguments, *_rank_arguments(pool, leader=leader)],
        "env": [{"name": name, "value": value} for name, value in (_CACHES | _OFFLINE).items()],
        "resources": _resources(pool),
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {**_mount("weights", "/models"), "readOnly": True},
            _mount("shm", "/dev/shm"),  # noqa: S108 - NCCL's fixed place, memory-backed
            _mount("cache", "/cache"),
            _mount("tmp", "/tmp"),  # noqa: S108
            *_cache_mounts(cache=cache),
        ],
    }
    if leader:
        container |= _serving_hooks(pool)
    return container


def _serving_hooks(pool: PoolAtSite) -> dict[str, Any]:
    """What only a pod that answers requests has: its port, probes and drain."""
    port = str(ENGINE_PORT)
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "exec": {"command": _python("first_token.py", pool.model_name, port)},
            **_budget(pool.startup),
        },
        "readinessProbe": {**health, **_budget(pool.readiness)},
        "livenessProbe": {**health, **_budget(pool.liveness)},
        "lifecycle": {
            "preStop": {
                "exec": {
                    "command": _python(
                        "drain.py", port, str(ENDPOINT_PROPAGATION_S), str(pool.drain_s)
                    )
                }
            }
        },
    }


def _rank_arguments(pool: PoolAtSite, *, leader: bool) -> list[str]:
    """How the pods of one replica find each other; LeaderWorkerSet sets the variables."""
    if not pool.spans_nodes:
        return []
    ranks = [
        f"--nnodes={pool.nodes_per_replica}",
        "--node-rank=$(LWS_WORKER_INDEX)",
        "--master-addr=$(LWS_LEADER_ADDRESS)",
    ]
    return ranks if leader else [*ranks, "--headless"]


def _volumes(pool: PoolAtSite, *, cache: bool) -> list[dict[str, Any]]:
    # emptyDir is node-local disk: the `restricted` Pod Security level allows no host path. The
    # node's cache comes by a claim, which it allows.
    claim = {"claimName": names.NODE_CACHE, "readOnly": True}
    return [
        {"name": "weights", "emptyDir": {"sizeLimit": str(pool.weights_volume_bytes)}},
        {
            "name": "shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": str(pool.shared_memory_bytes)},
        },
        {"name": "cache", "emptyDir": {"sizeLimit": "20Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
        *([{"name": names.NODE_CACHE, "persistentVolumeClaim": claim}] if cache else []),
        *store_access.volumes(pool.weights.files),
    ]


def _budget(probe: Probe) -> dict[str, int]:
    return {
        "periodSeconds": probe.period_s,
        "timeoutSeconds": probe.timeout_s,
        "failureThreshold": probe.failures,
    }


def _mount(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path}


def _python(script: str, *arguments: str) -> list[str]:
    """Run one of our scripts by the Python of the engine's own image."""
    folder = resources.files("gpufleet.components").joinpath("scripts")
    return ["python3", "-c", folder.joinpath(script).read_text(encoding="utf-8"), *arguments]
