"""What a pool has at one site, and whether it keeps its promise without some of its hosts.

Two things have to hold while hosts are out of service. What is left has room for as many replicas
as have to serve; and moving them may take at least one away, because a replica that is evicted
serves again only once its successor has loaded. The pool's disruption budget paces the rest. Both
are independent of which host a replica stands on, so that a plan stays true while its own batches
move replicas around.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import allocated
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import gpus_held, has_ended, is_ready
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.fleet import Fleet

PoolKey = tuple[str, str]
"""Site and pool: what a pool promises holds at each of its sites."""
Object = Mapping[str, Any]
_GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
_NO_LIMIT: Final = 1_000_000
_ROUNDING: Final = 1e-9
"""0.7 * 10 is 7.000000000000001 in floating point."""


@dataclass(frozen=True)
class PoolCapacity:
    """Replicas of a pool at one site, and the room that its hosts have for them.

    Args:
        wanted: replicas that it is to have now.
        ready: replicas that serve now.
        min_available: share of the wanted ones that serve at any time.
        slots: by host, how many pods of a replica its GPUs hold, taken or free; a host that takes
            none (cordoned, not ready, lost) has none.
        nodes_per_replica: pods of one replica.
        idle: hosts that are known to hold no pod of it.
    """

    wanted: int
    ready: int
    min_available: float
    slots: Mapping[str, int]
    nodes_per_replica: int = 1
    idle: frozenset[str] = frozenset()

    @cached_property
    def floor(self) -> int:
        """Replicas that have to serve at any time."""
        return math.ceil(self.wanted * self.min_available - _ROUNDING)

    @cached_property
    def _pods(self) -> int:
        return sum(self.slots.values())

    def without(self, out: Iterable[str]) -> int:
        """Replicas that serve while hosts are out of service, once those on them have moved."""
        room = self._pods - sum(self.slots.get(host, 0) for host in out)
        return min(self.ready, room // self.nodes_per_replica)

    def refusal(self, out: Sequence[str]) -> str:
        """Why some of its hosts may not be out of service together; empty where they may.

        Without room for every replica that serves, hosts go one at a time. Where none may be moved,
        hosts that hold none go all the same: nothing will move to them either.
        """
        if not self.ready and not self.floor:
            return ""
        if self.ready < self.floor:
            return f"{self._serving}: it has to recover first"
        if self.ready == self.floor:
            return "" if self.idle.issuperset(out) else f"{self._serving}: none may be moved"
        left = self.without(out)
        if left < self.floor:
            what = f"host {out[0]}" if len(out) == 1 else f"{len(out)} hosts"
            return f"{self._serving}: without {what} there is room for {left}"
        if left < self.ready and len(out) > 1:
            return f"{self._serving}: without room for all of them, hosts go one at a time"
        return ""

    def mend(self, host: str) -> str:
        """What would let a host go that may not go alone."""
        if self.ready < self.floor:
            return "see why its replicas are not ready"
        if self.ready == self.floor:
            left = self.wanted - 1
            more = self.min_available < 1
            replicas = f"run {self._movable_from} replicas" if more else ""
        else:
            left = self.without([host])
            replicas = "free or add a node of its group"
        share = math.floor(100 * left / self.wanted + _ROUNDING) / 100
        lower = f"lower min_available to {share:g}" if share > 0 else ""
        return " or ".join(filter(None, [replicas, lower]))

    @property
    def _movable_from(self) -> int:
        """Fewest replicas of which one may go."""
        return math.ceil(1 / (1 - self.min_available) - _ROUNDING)

    @property
    def _serving(self) -> str:
        return (
            f"{self.ready} of {self.wanted} replicas serve, and {self.floor} have to "
            f"(min_available {self.min_available:g})"
        )


def declared_capacity(fleet: Fleet) -> dict[PoolKey, PoolCapacity]:
    """The load as the fleet file declares it: every replica serves, and every host takes pods."""
    return {
        (site, pool.name): PoolCapacity(
            wanted=pool.replicas,
            ready=pool.replicas,
            min_available=fleet.pools[pool.name].min_available,
            slots=dict.fromkeys(_hosts(fleet, pool), _slots(fleet, pool)),
            nodes_per_replica=pool.nodes_per_replica,
        )
        for site in fleet.sites
        for pool in pools_at(fleet, site)
    }


def observed_capacity(  # noqa: PLR0913 - everything that a cluster shows of pools
    fleet: Fleet,
    site: str,
    *,
    nodes: Iterable[Object],
    pods: Iterable[Object],
    workloads: Iterable[Object],
    claims: Iterable[Object] = (),
) -> dict[PoolKey, PoolCapacity]:
    """The load of one site as its cluster shows it.

    Args:
        fleet: the fleet.
        site: one of its sites.
        nodes: every Node of the site.
        pods: every pod of the site: what is no replica of a pool, such as a batch job, takes room
            from it.
        workloads: the Deployments and LeaderWorkerSets of the pools: an autoscaler may want more
            replicas than the fleet file.
        claims: its ResourceClaims, where pods get their GPUs by them.
    """
    offered = {node["metadata"]["name"]: _offered(node) for node in nodes if _takes_pods(node)}
    wanted = {
        workload["metadata"]["name"]: int(workload["spec"].get("replicas", 1))
        for workload in workloads
    }
    claimed = allocated(claims)
    by_pool: defaultdict[str, list[Object]] = defaultdict(list)
    others: Counter[str] = Counter()
    for pod in pods:
        pool_name = (pod["metadata"].get("labels") or {}).get(names.POOL)
        if pool_name is not None:
            by_pool[pool_name].append(pod)
        elif not has_ended(pod):
            others[pod["spec"].get("nodeName", "")] += gpus_held(pod, claimed)
    found = {}
    for pool in pools_at(fleet, site):
        hosts = _hosts(fleet, pool)
        declared = fleet.node_groups[pool.group_name].gpus_per_node
        own = by_pool[pool.name]
        held = {pod["spec"].get("nodeName") for pod in own}
        found[site, pool.name] = PoolCapacity(
            wanted=wanted.get(pool.name, pool.replicas),
            ready=_serving(pool, own),
            min_available=fleet.pools[pool.name].min_available,
            slots=MappingProxyType(
                {
                    host: max(0, min(declared, offered[host]) - others[host]) // pool.gpus_per_node
                    for host in hosts
                    if host in offered
                }
            ),
            nodes_per_replica=pool.nodes_per_replica,
            idle=frozenset(host for host in hosts if host not in held),
        )
    return found


def _hosts(fleet: Fleet, pool: PoolAtSite) -> list[str]:
    return [node.name for node in expand_site(fleet, pool.site) if node.group == pool.group_name]


def _slots(fleet: Fleet, pool: PoolAtSite) -> int:
    return fleet.node_groups[pool.group_name].gpus_per_node // pool.gpus_per_node


def _offered(node: Object) -> int:
    """GPUs that a device plugin offers; no limit where they are claimed."""
    allocatable = node.get("status", {}).get("allocatable") or {}
    return int(allocatable.get(names.GPU_RESOURCE, _NO_LIMIT))


def _takes_pods(node: Object) -> bool:
    return not node["spec"].get("unschedulable") and is_ready(node)


def _serving(pool: PoolAtSite, pods: Iterable[Object]) -> int:
    """Replicas of which every pod is ready, of whatever revision: they answer requests."""
    ready = [pod for pod in pods if is_ready(pod)]
    if not pool.spans_nodes:
        return len(ready)
    members = Counter(pod["metadata"]["labels"].get(_GROUP_INDEX, "") for pod in ready)
    return sum(count >= pool.nodes_per_replica for count in members.values())
