"""The objects of a drill at one site, as plain Kubernetes data: all in a namespace of their own."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gpufleet.components.pod_template import metadata, pod_spec
from gpufleet.core import claims
from gpufleet.core import vocabulary as names
from gpufleet.core.drills.stage import (
    DRILL,
    FOR_REAL,
    NAMESPACE,
    PRIORITY,
    PRIORITY_CLASS,
    SCENARIO,
    stage_routes,
)
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import ROUTES_FILE

Object = dict[str, Any]
PLACE: Final = f"{names.GROUP}/drill-place"
"""Label with the node group: a pool may come up on several."""
WORKLOADS: Final = (("apps/v1", "Deployment"), ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"))
_GRACE_S: Final = 5
"""No request of a user is under way: nothing has to be waited for."""


@dataclass(frozen=True)
class Where:
    """On which nodes the replicas of a stage may run, beside what their pools say."""

    only: str = ""
    """A node of the drill's own: no other one, and they alone."""
    avoid: str = ""
    """A node on which none may run."""
    gpus_beside: int = 0
    """GPUs of pods that the cluster goes on counting, though they have ended."""


ANYWHERE: Final = Where()


def namespace(flow: str, scenario: str, *, for_real: bool = False) -> list[Object]:
    """What has to stand first: the namespace, which says what it is for, and its priority."""
    told = {SCENARIO: scenario} | ({FOR_REAL: "true"} if for_real else {})
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {DRILL: flow, **names.POD_SECURITY},
                "annotations": told,
            },
        },
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": PRIORITY_CLASS, "labels": {DRILL: flow}},
            "value": PRIORITY,
            "preemptionPolicy": "Never",
            "globalDefault": False,
            "description": "Stand-ins of a drill: everything else comes first.",
        },
    ]


def contents(  # noqa: PLR0913 - of what, where, whose, and how
    stage: Fleet,
    site: str,
    flow: str,
    *,
    started: bool,
    where: Where = ANYWHERE,
    for_real: bool = False,
) -> Iterator[Object]:
    """Everything in the namespace of a site: no more GPUs than planned, workloads, routes.

    Args:
        stage: the fleet of the drill's stand-ins.
        site: of it.
        flow: of the drill.
        started: whether replicas start; otherwise their workloads stand, and have none.
        where: they may run.
        for_real: whether they are production's: then they yield to nothing, and drain as it does.
    """
    pools = pools_at(stage, site)
    gpus = sum(pool.replicas * pool.gpus_per_replica for pool in pools)
    quota = {f"requests.{names.GPU_RESOURCE}": str(gpus + where.gpus_beside)}
    yield _object("v1", "ResourceQuota", "gpus", flow, spec={"hard": quota})
    for name in dict.fromkeys(pool.name for pool in pools):
        yield _object("v1", "ServiceAccount", name, flow, automountServiceAccountToken=False)
    yield _object(
        "networking.k8s.io/v1", "NetworkPolicy", "only-the-gateway", flow, spec=_rules(pools)
    )
    routes = {ROUTES_FILE: stage_routes(stage).model_dump_json(by_alias=True)}
    yield _object("v1", "ConfigMap", names.GATEWAY_ROUTES, flow, data=routes)
    for pool in pools:
        if pool.claim_template is not None:
            spec = claims.claim_template(pool)
            kind = "ResourceClaimTemplate"
            yield _object("resource.k8s.io/v1", kind, pool.claim_template, flow, spec=spec)
        made = workload(pool, stage.images.gpufleet, flow, started=started, for_real=for_real)
        yield _placed(made, where, flow)


def workload(
    pool: PoolAtSite, image: str, flow: str, *, started: bool, for_real: bool = False
) -> Object:
    """What runs the replicas of a pool on one node group."""
    replicas = pool.replicas if started else 0
    labels = {names.POOL: pool.name, PLACE: pool.group_name}
    name = f"{pool.name}-on-{pool.group_name}"[:63].rstrip("-")
    if pool.spans_nodes:
        leader, worker = (
            _template(pool, image, flow, leader=each, for_real=for_real) for each in (True, False)
        )
        spec: Object = {
            "replicas": replicas,
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": pool.nodes_per_replica,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        }
        version = "leaderworkerset.x-k8s.io/v1"
        return _object(version, "LeaderWorkerSet", name, flow, labels=labels, spec=spec)
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": _template(pool, image, flow, for_real=for_real),
    }
    return _object("apps/v1", "Deployment", name, flow, labels=labels, spec=spec)


def _placed(made: Object, where: Where, flow: str) -> Object:
    """A workload whose pods run where they may."""
    spec = made["spec"]
    group = spec.get("leaderWorkerTemplate", {})
    for template in (
        spec.get("template"),
        group.get("leaderTemplate"),
        group.get("workerTemplate"),
    ):
        if template:
            _bind(template["spec"], where, flow)
    return made


def _bind(pod: Object, where: Where, flow: str) -> None:
    node = where.only or where.avoid
    if not node:
        return
    operator = "In" if where.only else "NotIn"
    rule = {"key": "kubernetes.io/hostname", "operator": operator, "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    if where.only:
        own = {"key": DRILL, "operator": "Equal", "value": flow, "effect": "NoSchedule"}
        pod["tolerations"] = [*pod["tolerations"], own]


def _template(
    pool: PoolAtSite, image: str, flow: str, *, leader: bool = True, for_real: bool = False
) -> Object:
    about = metadata(pool)
    # A drill has a namespace of its own, without the claim for nodes' caches.
    spec = pod_spec(pool, image, leader=leader, cache=False)
    if not for_real:
        spec["priorityClassName"] = PRIORITY_CLASS
        spec["terminationGracePeriodSeconds"] = _GRACE_S
    return {
        "metadata": about | {"labels": {**about["labels"], DRILL: flow, PLACE: pool.group_name}},
        "spec": spec,
    }


def _rules(pools: Iterable[PoolAtSite]) -> Object:
    """Engines are asked by the gateway, and reach what weights come from."""
    asks = {"namespaceSelector": {"matchLabels": {names.NAMESPACE: names.GATEWAY_NAMESPACE}}}
    among: Object = {"podSelector": {}}
    ports = sorted({443}.union(*(pool.weights.ports for pool in pools)))
    return {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [asks, among]}],
        "egress": [
            {"ports": [{"port": port, "protocol": "TCP"} for port in ports]},
            {"to": [among]},
        ],
    }


def _object(
    version: str,
    kind: str,
    name: str,
    flow: str,
    *,
    labels: dict[str, str] | None = None,
    **content: Any,  # noqa: ANN401 - plain Kubernetes data
) -> Object:
    about = {"name": name, "namespace": NAMESPACE, "labels": {**(labels or {}), DRILL: flow}}
    return {"apiVersion": version, "kind": kind, "metadata": about, **content}
