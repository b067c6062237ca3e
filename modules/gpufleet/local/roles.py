"""What each process of an embedded site may do in its cluster, and no more."""

from collections.abc import Sequence
from typing import Final

from gpufleet.edges.kube import Cluster, Object

_API: Final = "rbac.authorization.k8s.io"
_PATH: Final = f"/apis/{_API}/v1"
_READ: Final = ["get", "list", "watch"]


def _rule(group: str | list[str], resources: list[str], verbs: list[str]) -> Object:
    groups = [group] if isinstance(group, str) else group
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


_EVENTS: Final = _rule(["", "events.k8s.io"], ["events"], ["create", "patch"])

KWOK: Final = [
    _rule("", ["nodes", "pods"], _READ),
    _rule("", ["nodes/status", "pods/status"], ["patch", "update"]),
    _rule("", ["pods"], ["delete", "patch", "update"]),
    _EVENTS,
    _rule("coordination.k8s.io", ["leases"], [*_READ, "create", "patch", "update"]),
]
AGENT: Final = [
    _rule("", ["nodes", "pods"], _READ),
    _rule("", ["pods/status"], ["patch"]),
]
METRICS_READER: Final = [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
PROMETHEUS: Final = [*METRICS_READER, _rule("", ["pods"], _READ)]
"""It finds the replicas that it scrapes by their pods."""
KEDA: Final = [
    _rule("", ["pods", "configmaps", "services", "limitranges", "serviceaccounts"], _READ),
    _EVENTS,
    _rule("apps", ["deployments", "replicasets", "statefulsets"], _READ),
    _rule("leaderworkerset.x-k8s.io", ["leaderworkersets"], ["get"]),
    _rule("apps", ["deployments/scale"], ["get", "patch", "update"]),
    _rule("leaderworkerset.x-k8s.io", ["leaderworkersets/scale"], ["get", "patch", "update"]),
    _rule("batch", ["jobs"], _READ),
    _rule(
        "autoscaling",
        ["horizontalpodautoscalers"],
        [*_READ, "create", "delete", "patch", "update"],
    ),
    _rule(["keda.sh", "eventing.keda.sh"], ["*"], [*_READ, "patch", "update"]),
]
KEDA_SECRETS: Final = [_rule("", ["secrets"], _READ)]
"""In its own namespace: its cache of them has to be filled before it starts."""
KEDA_ADAPTER: Final = [_rule("keda.sh", ["scaledobjects"], _READ)]
KEDA_WEBHOOKS: Final = [
    _rule(["keda.sh", "eventing.keda.sh"], ["*"], _READ),
    _rule("autoscaling", ["horizontalpodautoscalers"], _READ),
    _rule("apps", ["deployments", "statefulsets"], _READ),
    _rule("", ["limitranges"], _READ),
]
EXTERNAL_METRICS: Final = [_rule("external.metrics.k8s.io", ["*"], ["get", "list"])]


def user(name: str) -> Object:
    """A client by the name in its certificate."""
    return {"apiGroup": _API, "kind": "User", "name": name}


def account(namespace: str, name: str) -> Object:
    """A service account."""
    return {"kind": "ServiceAccount", "namespace": namespace, "name": name}


def grant(
    cluster: Cluster,
    name: str,
    rules: Sequence[Object],
    *subjects: Object,
    namespace: str | None = None,
) -> None:
    """A ClusterRole, bound under its own name.

    Args:
        cluster: as its administrator.
        name: of the role, and of the user that gets it where no subjects are given.
        rules: what it allows.
        subjects: who gets it.
        namespace: where it holds; everywhere without one.
    """
    body = {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": list(rules),
    }
    cluster.apply(f"{_PATH}/clusterroles/{name}", body)
    bind(cluster, name, *(subjects or [user(name)]), name=name, namespace=namespace)


def bind(
    cluster: Cluster,
    role: str,
    *subjects: Object,
    name: str,
    namespace: str | None = None,
    kind: str = "ClusterRole",
) -> None:
    """A role that exists, bound to these; `kind` is Role for one of the namespace's own."""
    scope = f"/namespaces/{namespace}/rolebindings" if namespace else "/clusterrolebindings"
    body = {
        "apiVersion": f"{_API}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _API, "kind": kind, "name": role},
        "subjects": list(subjects),
    }
    cluster.apply(f"{_PATH}{scope}/{name}", body)
