"""What has to be true while a wave soaks: PromQL over the series that the platform keeps anyway.

Use cases are watched from the day on which they are served: until then they have no series, and
their gates, which are not required, say nothing.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.burn import BAD_SHARE, PAIRS, threshold
from gpufleet.core.monitoring.gpus import FATAL_XIDS, XID
from gpufleet.core.monitoring.objectives import Objective, objectives_of
from gpufleet.core.monitoring.pools import DECLARED, ENGINES_UP, KUBE_RESTARTS, RESTARTS
from gpufleet.core.monitoring.rules import POOL, selector
from gpufleet.core.monitoring.site_rules import watches_gateway
from gpufleet.core.patching.capacity import declared_capacity
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.patching import Gate

RESTARTS_ALLOWED: Final = 1
"""Of a pool's containers in ten minutes: a single one may be chance."""
_REQUESTS: Final = 10
"""Fewer in five minutes say nothing about a share."""
_FASTEST: Final = PAIRS[0]
"""A burn that would wake somebody; its short window sees the soak and not the hours before."""


def gates_of(fleet: Fleet, sites: Collection[str], pools: Collection[str]) -> list[Gate]:
    """The gates of a patch.

    Args:
        fleet: the fleet.
        sites: whose hosts are patched.
        pools: whose replicas stand on them.
    """
    return [
        *(gate for site in fleet.sites if site in sites for gate in _at_site(fleet, site, pools)),
        *_promises(fleet, sites, pools),
    ]


def _at_site(fleet: Fleet, site: str, pools: Collection[str]) -> Iterator[Gate]:
    embedded = isinstance(fleet.sites[site].cluster, EmbeddedCluster)
    capacity = declared_capacity(fleet)
    for pool in pools_at(fleet, site):
        if pool.name not in pools:
            continue
        of_pool = selector(**{POOL: pool.name})
        wanted = f"{DECLARED}{of_pool}"
        yield Gate(
            name=f"replicas ready: {pool.name}",
            site=site,
            query=f"{wanted} - ({ENGINES_UP}{of_pool} or 0 * {wanted})",
            at_most=pool.replicas - capacity[site, pool.name].floor,
        )
        yield Gate(
            name=f"restarts: {pool.name}",
            site=site,
            query=_restarts(pool, embedded=embedded),
            at_most=RESTARTS_ALLOWED,
            # A counter of restarts begins with the first one.
            required=False,
        )
    now = " or ".join(f"{XID} == {number}" for number in FATAL_XIDS)
    yield Gate(
        name="new fatal XIDs",
        site=site,
        # A GPU's last XID stays until its reset: one that it had before is not the patch's.
        query=f"count(({now}) unless ({XID} offset 30m > 0)) or 0 * count({XID})",
        at_most=0,
        required=False,
    )


def _restarts(pool: PoolAtSite, *, embedded: bool) -> str:
    namespace = names.namespace_of(pool.class_)
    if embedded:
        return f"sum(increase({RESTARTS}{selector(namespace=namespace, pool=pool.name)}[10m]))"
    of_pool = selector(namespace=namespace, pod=f"~{pool.name}-.+")
    return f"sum(increase({KUBE_RESTARTS}{of_pool}[10m]))"


def _promises(fleet: Fleet, sites: Collection[str], pools: Collection[str]) -> Iterator[Gate]:
    """The use cases of the pools, by the Prometheus that watches the gateway."""
    served = {use_case for pool in pools for use_case in fleet.pools[pool].use_cases}
    watching = [site for site in fleet.sites if watches_gateway(fleet, site)]
    asked = [site for site in watching if site in sites] or watching[:1]
    for site in asked:
        for objective in objectives_of(fleet):
            if objective.use_case in served:
                yield Gate(
                    name=f"budget burn: {objective.use_case} {objective.slo.value}",
                    site=site,
                    query=_burn(objective),
                    at_most=threshold(objective, _FASTEST),
                    required=False,
                )


def _burn(objective: Objective) -> str:
    window = _FASTEST.short
    chosen = selector(use_case=objective.use_case, slo=objective.slo.value)
    bad = f"{BAD_SHARE}{window}{chosen}"
    if objective.is_of_time:
        return bad
    return f"{bad} and on() {objective.events(window)} >= {_REQUESTS}"


@dataclass(frozen=True)
class GateVerdict:
    """What a gate has said: its worst value, None without any series."""

    gate: Gate
    value: float | None
    reason: str = ""
    """Why it does not hold; empty where it does."""

    @property
    def holds(self) -> bool:
        """Whether the soak may go on."""
        return not self.reason


def verdict(gate: Gate, values: Sequence[float]) -> GateVerdict:
    """Judge a gate.

    Args:
        gate: the gate.
        values: of every series that its query has given.
    """
    if not values:
        reason = f"{gate.name}: nobody tells it at {gate.site}" if gate.required else ""
        return GateVerdict(gate, None, reason)
    worst = max(values)
    if worst <= gate.at_most:
        return GateVerdict(gate, worst)
    return GateVerdict(
        gate, worst, f"{gate.name} at {gate.site}: {worst:.6g}, and at most {gate.at_most:.6g}"
    )
