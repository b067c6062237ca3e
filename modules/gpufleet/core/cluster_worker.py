"""The worker on a cluster: at which site it runs, what it may do there, how it finds the API."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENGINE_PORT
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster

CONFIG_MAP_BYTES: Final = 2**20
"""Most that Kubernetes keeps in one ConfigMap, keys and values together."""
ACCOUNT_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_READ: Final = ("get", "list", "watch")
_WRITE: Final = (*_READ, "create", "update", "patch", "delete")

CLUSTER_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("namespaces", "persistentvolumes"),
    "scheduling.k8s.io": ("priorityclasses",),
    "node.k8s.io": ("runtimeclasses",),
    "kueue.x-k8s.io": ("clusterqueues", "resourceflavors", "workloadpriorityclasses"),
    "admissionregistration.k8s.io": (
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ),
}
"""What the stacks make that belongs to no namespace, by API group."""

NAMESPACED_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("configmaps", "persistentvolumeclaims", "resourcequotas", "serviceaccounts", "services"),
    "apps": ("daemonsets", "deployments"),
    "gateway.networking.k8s.io": ("gateways", "httproutes"),
    "keda.sh": ("scaledobjects",),
    "kueue.x-k8s.io": ("localqueues",),
    "leaderworkerset.x-k8s.io": ("leaderworkersets",),
    "monitoring.coreos.com": ("podmonitors", "prometheusrules", "servicemonitors"),
    "networking.k8s.io": ("networkpolicies",),
    "policy": ("poddisruptionbudgets",),
    "resource.k8s.io": ("resourceclaimtemplates",),
}
"""What the stacks make in our namespaces, by API group."""

SYSTEM_KINDS: Final[Mapping[str, tuple[str, ...]]] = {"batch": ("cronjobs",)}
"""What they make in the worker's own namespace alone."""

_OBSERVED: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("events", "nodes", "pods", "services"),
    "apps": ("deployments", "replicasets"),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "discovery.k8s.io": ("endpointslices",),
    "leaderworkerset.x-k8s.io": ("leaderworkersets",),
    "rbac.authorization.k8s.io": ("clusterrolebindings", "clusterroles", "rolebindings", "roles"),
    "resource.k8s.io": ("resourceclaims",),
}
"""What is only looked at, in every namespace: no Secret."""


def worker_site(fleet: Fleet) -> str | None:
    """The one site whose cluster runs the environment's worker: the first of the fleet file.

    None where a site is embedded: then the worker runs beside the embedded platform, which no pod
    of a cluster could reach.
    """
    if any(isinstance(site.cluster, EmbeddedCluster) for site in fleet.sites.values()):
        return None
    return next(iter(fleet.sites))


def key_files(fleet: Fleet) -> tuple[str, ...]:
    """What the worker needs as files to take and restore: keys of the Secret `ARTIFACT_FILES`."""
    keys = fleet.snapshot_keys
    declared = {
        names.SNAPSHOT_KEY: keys.encryption_key,
        names.SIGNING_KEY: keys.signing_key_file,
    }
    return tuple(name for name, given in declared.items() if given)


def egress_ports(fleet: Fleet) -> list[int]:
    """Ports that the worker reaches: API servers, PostgreSQL, declared object stores and calendars.

    And the engines, where it asks them for a token before a declared peak.
    """
    stores = (site.object_store for site in fleet.sites.values())
    calendars = (calendar.url for calendar in fleet.freeze_calendars.values())
    addresses = [*(store.endpoint for store in stores if store), *filter(None, calendars)]
    endpoints = [urlsplit(address) for address in addresses]
    declared = {url.port or (80 if url.scheme == "http" else 443) for url in endpoints}
    engines = {ENGINE_PORT} if any(pool.prewarm for pool in fleet.pools.values()) else set[int]()
    return sorted({443, 6443, 5432} | declared | engines)


def cluster_rules() -> list[dict[str, list[str]]]:
    """RBAC rules over the whole cluster: what belongs to no namespace, and what is looked at.

    Nodes are labelled, tainted and cordoned, never made or removed; pods are evicted from those
    that are patched, as disruption budgets allow. Roles are only read: Kubernetes lets nobody grant
    what he has not, so an administrator's `up` widens the worker's own rights.
    """
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}
    evictions = {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}
    return [*_rules(CLUSTER_KINDS, _WRITE), *_rules(_OBSERVED, _READ), nodes, evictions]


def namespace_rules(namespace: str) -> list[dict[str, list[str]]]:
    """RBAC rules in one of our namespaces.

    In its own it makes the CronJobs of snapshots, and asks for the tokens with which the state of
    freezes is written, and with which an exempt flow passes one; in that of batch work it makes and
    ends the Jobs of batches; in that of interactive work it asks a replica, that it cannot reach,
    for a token through the API server; in that of nodes' caches it makes the Jobs that fill them,
    and sends their pods to their nodes.
    """
    tokens = {
        "apiGroups": [""],
        "resources": ["serviceaccounts/token"],
        "resourceNames": [names.FREEZE_SYNC, names.EXEMPT],
        "verbs": ["create"],
    }
    asks = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["create"]}
    jobs = _rules({"batch": ("jobs",)}, _WRITE)
    own = {
        names.SYSTEM_NAMESPACE: [tokens, *_rules(SYSTEM_KINDS, _WRITE)],
        names.BATCH_NAMESPACE: jobs,
        names.INTERACTIVE_NAMESPACE: [asks],
        names.CACHE_NAMESPACE: [
            *jobs,
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]},
        ],
    }.get(namespace, [])
    return [*_rules(NAMESPACED_KINDS, _WRITE), *own]


def kubeconfig(
    context: str,
    *,
    server: str = "https://kubernetes.default.svc",
    account: str = ACCOUNT_FOLDER,
) -> dict[str, Any]:
    """A kubeconfig that holds no secret: its context is the pod's own service account.

    Args:
        context: as the fleet file names the cluster, so that stacks and tasks find it.
        server: of the API.
        account: folder of the account's `token` and `ca.crt`; the kubelet renews the token there.
    """
    cluster = {"server": server, "certificate-authority": f"{account}/ca.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": names.WORKER, "user": {"tokenFile": f"{account}/token"}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": names.WORKER}}],
        "current-context": context,
    }


def declared_data(files: Mapping[str, str], shown: str) -> tuple[dict[str, str], dict[str, str]]:
    """A ConfigMap's data, and the path of each of its keys.

    Args:
        files: content of the declared files by path from the fleet file's folder.
        shown: the fleet file, for the error.

    Raises:
        BadInput: they are more than a ConfigMap holds.
    """
    # A key may hold no slash.
    paths = {path.replace("/", "__"): path for path in sorted(files)}
    data = {key: files[path] for key, path in paths.items()}
    size_bytes = sum(len(key) + len(text.encode()) for key, text in data.items())
    if size_bytes > CONFIG_MAP_BYTES:
        largest = max(files, key=lambda path: len(files[path].encode()))
        raise BadInput(
            f"the declared files are {size_bytes / 2**20:.1f} MiB together, and a ConfigMap holds "
            f"{CONFIG_MAP_BYTES // 2**20} MiB",
            where=shown,
            mend=f"shorten {largest}, the largest; past events of a calendar can go",
        )
    return data, paths


def _rules(
    kinds: Mapping[str, tuple[str, ...]], verbs: tuple[str, ...]
) -> list[dict[str, list[str]]]:
    return [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
        for group, resources in kinds.items()
    ]
