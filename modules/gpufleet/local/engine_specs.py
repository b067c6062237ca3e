"""What the fleet file makes of the simulated replicas of a site: speed, load time, lengths."""

from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.speed import speed_of
from gpufleet.local.engine.answers import Lengths
from gpufleet.local.engine.settings import EngineSpec, stand_in
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.serving import Pool

_UNKNOWN_PROMPT, _UNKNOWN_OUTPUT = 500.0, 100.0
"""Mean lengths, tokens, of a pool that nobody is routed to."""


def engine_specs(fleet: Fleet, site: str) -> dict[tuple[str, str], EngineSpec]:
    """The replicas of an embedded site by pool and node group.

    A replica is as fast as the capacity model says. Where it cannot say (the model does not fit,
    its shape is not known), the replica is a stand-in, and says so.
    """
    cluster = fleet.sites[site].cluster
    scale = cluster.load_time_scale if isinstance(cluster, EmbeddedCluster) else 1.0
    return {
        (name, group): _spec(fleet, pool, group, scale)
        for name, pool in fleet.pools.items()
        for group in pool.placements
        if fleet.node_groups[group].site == site
    }


def _spec(fleet: Fleet, pool: Pool, group: str, load_time_scale: float) -> EngineSpec:
    placement = pool.placements[group]
    prompt, lengths = _lengths(fleet, pool)
    try:
        speed = speed_of(
            fleet,
            pool.model,
            fleet.node_groups[group].gpu_type,
            gpus_per_node=placement.gpus_per_node,
            nodes_per_replica=placement.nodes_per_replica,
            concurrency_limit=pool.concurrency_limit,
            memory_utilization=pool.memory_utilization,
            mean_prompt_tokens=prompt,
            mean_output_tokens=lengths.mean_tokens,
        )
    except ValueError as why:
        speed = stand_in(pool.concurrency_limit, str(why))
    load_s = fleet.models[pool.model].load_time_s * load_time_scale
    return EngineSpec(speed, load_s, lengths)


def _lengths(fleet: Fleet, pool: Pool) -> tuple[float, Lengths]:
    """Mean length of the prompts, and lengths of the answers.

    A pool without use cases of its own has those of whoever falls back to its model.
    """
    names = tuple(pool.use_cases) or tuple(
        name for name, use_case in fleet.use_cases.items() if use_case.fallback == pool.model
    )
    demand = PoolDemand(names, tuple(fleet.use_cases[name] for name in names), (None,) * len(names))
    rates = demand.peak.rates_rps if names else ()
    if not sum(rates):
        return _UNKNOWN_PROMPT, Lengths(_UNKNOWN_OUTPUT, 2 * _UNKNOWN_OUTPUT)
    prompt, output = demand.mean_tokens()
    p95 = sum(
        rate * use_case.tokens.output_p95
        for rate, use_case in zip(rates, demand.use_cases, strict=True)
    )
    return prompt, Lengths(output, p95 / sum(rates))
