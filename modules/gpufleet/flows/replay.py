"""A recorded trace through a pool of a given size: what its users would have seen."""

import math
from pathlib import Path
from typing import Final

import numpy as np

from gpufleet.core.capacity.arrivals import index_of_dispersion
from gpufleet.core.capacity.bounds import Target
from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.requests import FAILED, SERVED, SHED, Floats, Limits, Requests
from gpufleet.core.capacity.simulator import simulate
from gpufleet.core.capacity.sizing import TIMEOUT_S, keeps, predict
from gpufleet.core.capacity.speed import speed_of
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.plans import plan_capacity
from gpufleet.flows.recorded import trace_of
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.load import load_plan
from gpufleet.spec.plan_file import laid_over, plan_file_of
from gpufleet.spec.replays import Percentiles, ReplayReport
from gpufleet.spec.serving import Placement, Pool

_NO_LIMIT: Final = 2**40


def replay(  # noqa: PLR0913 - a trace, a pool, and its limits
    workspace: Workspace,
    fleet_file: Path,
    trace_file: Path,
    use_case_name: str,
    gpus: int,
    *,
    queue_limit: int | None = None,
) -> ReplayReport:
    """Run a trace, as it was recorded, through the planned pool of a use case.

    The pool has the GPU type, the parallelism and the concurrency limit of its plan: of the plan
    file, or of a plan that is made now where there is none.

    Args:
        workspace: the clone.
        fleet_file: the fleet.
        trace_file: a CSV file of arrivals and lengths.
        use_case_name: one of the fleet's use cases; its promises are looked at.
        gpus: of the whole pool.
        queue_limit: requests that may wait at one replica; where it is left out nothing is shed,
            and what would have been shows in the times.

    Raises:
        BadInput: fleet file, trace, use case or number of GPUs cannot be right.
    """
    fleet, planned = _as_planned(workspace, fleet_file, use_case_name)
    pool_name, pool = _pool_of(fleet, use_case_name)
    group_name, placement = next(iter(pool.placements.items()))
    replicas = _replicas(gpus, placement)
    gpu_type = fleet.node_groups[group_name].gpu_type
    use_case = fleet.use_cases[use_case_name]
    try:
        # The pool's replicas serve all its use cases, so that the plan's mean lengths are theirs.
        prompt, output = PoolDemand.of(fleet, pool_name, {}).mean_tokens()
        speed = speed_of(
            fleet,
            pool.model,
            gpu_type,
            gpus_per_node=placement.gpus_per_node,
            nodes_per_replica=placement.nodes_per_replica,
            concurrency_limit=pool.concurrency_limit,
            memory_utilization=pool.memory_utilization,
            mean_prompt_tokens=prompt,
            mean_output_tokens=output,
        )
    except ValueError as error:
        raise BadInput(str(error), where=f"{fleet_file}: pools.{pool_name}") from None
    trace = trace_of(trace_file)
    requests = Requests(
        trace.arrival_s, trace.prompt_tokens, trace.output_tokens, np.zeros(len(trace), np.int64)
    )
    limits = Limits(_NO_LIMIT if queue_limit is None else queue_limit, TIMEOUT_S)
    outcome = simulate(requests, speed, replicas, limits)
    slo = use_case.slo
    target = Target(0, slo.p95_s, slo.ttft_p95_s, slo.error_rate)
    index = index_of_dispersion(trace.arrival_s)
    ended = np.bincount(outcome.status, minlength=3)
    return ReplayReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        use_case=use_case_name,
        pool=pool_name,
        model=pool.model,
        gpu_type=gpu_type,
        gpus=gpus,
        replicas=replicas,
        tp=placement.gpus_per_node,
        pp=placement.nodes_per_replica,
        concurrency_limit=speed.concurrency_limit,
        queue_limit=queue_limit,
        planned=planned,
        evidence=speed.evidence.value,
        evidence_source=speed.source,
        requests=len(trace),
        rate_rps=len(trace) / trace.span_s,
        index_of_dispersion=None if math.isnan(index) else index,
        served=int(ended[SERVED]),
        shed=int(ended[SHED]),
        failed=int(ended[FAILED]),
        e2e_s=_percentiles(outcome.e2e_s),
        ttft_s=_percentiles(outcome.ttft_s),
        wait_s=_percentiles(outcome.wait_s),
        utilization=outcome.busy_share,
        p95_limit_s=slo.p95_s,
        ttft_p95_limit_s=slo.ttft_p95_s,
        error_rate_limit=slo.error_rate,
        holds=keeps(predict([outcome], target), target),
    )


def _as_planned(workspace: Workspace, fleet_file: Path, use_case: str) -> tuple[Fleet, str]:
    """The fleet with its plan laid over, and where the plan comes from."""
    declared = load_fleet(fleet_file)
    _pool_of(declared, use_case)
    plan_file = load_plan(fleet_file)
    if plan_file is not None and _pool_of(declared, use_case)[0] in plan_file.pools:
        return declared, "the plan file"
    try:
        plan = plan_capacity(workspace, fleet_file)
    except FleetError as refused:
        return declared, f"the fleet file, since no plan can be made: {refused.what}"
    return laid_over(declared, plan_file_of(plan)), "a plan made now"


def _pool_of(fleet: Fleet, use_case: str) -> tuple[str, Pool]:
    for name, pool in fleet.pools.items():
        if use_case in pool.use_cases:
            return name, pool
    raise BadInput(
        f"there is no use case `{use_case:.60}`",
        where="--use-case",
        mend=f"there are: {', '.join(fleet.use_cases)}",
    )


def _replicas(gpus: int, placement: Placement) -> int:
    each = placement.gpus_per_replica
    if gpus < each or gpus % each:
        near = sorted({max(1, gpus // each) * each, (gpus // each + 1) * each})
        raise BadInput(
            f"{gpus} GPUs make no whole replicas: one takes {each}",
            where="--gpus",
            mend=f"give a multiple of {each}, such as {' or '.join(map(str, near))}",
        )
    return gpus // each


def _percentiles(seconds: Floats) -> Percentiles:
    served = seconds[~np.isnan(seconds)]
    if not len(served):
        return Percentiles(p50=None, p95=None, p99=None)
    p50, p95, p99 = (float(each) for each in np.percentile(served, [50, 95, 99]))
    return Percentiles(p50=p50, p95=p95, p99=p99)
