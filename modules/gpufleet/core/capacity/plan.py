"""The capacity plan of an environment: the choice over the fleet, simulation, numbers.

Closed forms tell what every way to serve every pool is expected to need; the solver chooses by
that; what it has chosen is simulated, and the choice made again, until all that is chosen was
simulated. So every number of a plan is simulated, and what was left aside is expected to cost more.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from gpufleet.core.capacity.arrivals import Trace
from gpufleet.core.capacity.bounds import Unreachable
from gpufleet.core.capacity.choice import Cannot, Demand, Ground, Option, Pattern, Stand, choose
from gpufleet.core.capacity.demand import PoolDemand
from gpufleet.core.capacity.grounds import allowed, declared_sites, grounds, spare_places
from gpufleet.core.capacity.headroom import Failures, repair_s
from gpufleet.core.capacity.needs import MOST_REPLICAS, Needs, expected, simulated
from gpufleet.core.capacity.options import Candidate, candidates
from gpufleet.core.capacity.pool_plan import kept_as_declared, pool_plan
from gpufleet.core.capacity.replica import Evidence
from gpufleet.core.capacity.settled import Settled
from gpufleet.core.capacity.totals import explained, smaller_spending, totals_of
from gpufleet.core.cost.budget import Spending, demand_within_budget, overruns
from gpufleet.core.sources import Sources
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_file import planned_from
from gpufleet.spec.plans import Plan
from gpufleet.spec.serving import ServingClass

PEAK_AFTER_LOSS: Final = 0.999
"""Promised availability from which the loss of a site has to pass unseen even at the declared peak;
below it, in the busiest hour of a usual day. At 0.999 less than nine hours of a year are left, and
a site that is lost in a peak is away for longer."""

FEWEST_TRACED: Final = 500
"""Requests of a recorded trace from which its 95th percentile rests on 25 requests."""


@dataclass
class _Way:
    """One way to serve a pool, with what it needs as far as that is known."""

    candidate: Candidate
    needs: Needs
    failures: Failures
    spare_places: int


@dataclass
class _Case:
    """One pool on its way to a plan."""

    name: str
    demand: PoolDemand
    grounds: tuple[str, ...]
    keeps_site_loss: bool
    ways: list[_Way] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    too_large: bool = False
    """Whether a way would reach the targets with more replicas than are planned."""
    surprise: float = 1.0
    """How much more a simulation has found than was expected; what was not simulated yet is taken
    to surprise as much."""

    def way(self, fleet: Fleet, candidate: Candidate, needs: Needs) -> _Way:
        """A way to serve the pool."""
        groups = [n for n in self.grounds if fleet.node_groups[n].gpu_type == candidate.gpu_type]
        failures = Failures(
            gpus=needs.most * candidate.gpus_per_replica,
            annual_failure_rate=fleet.gpus[candidate.gpu_type].annual_failure_rate,
            repair_s=repair_s(fleet, groups),
            availability=self.demand.availability,
        )
        places = spare_places(
            fleet,
            self.grounds,
            candidate.gpu_type,
            candidate.gpus_per_node,
            candidate.nodes_per_replica,
        )
        return _Way(candidate, needs, failures, places)

    def drop(self, candidate: Candidate, why: str) -> None:
        """Remember why a way is none."""
        shape = f"{candidate.gpus_per_replica} x {candidate.gpu_type}"
        self.dropped.append(f"{shape}, {candidate.concurrency_limit} in flight: {why}")

    def demand_any(self, sources: Sources) -> None:
        """Refuse where no way is left.

        Raises:
            BadInput: what is reachable, by each way.
            PolicyRefused: only more replicas than are planned would do.
        """
        if self.too_large and not self.ways:
            raise PolicyRefused(
                f"pool `{self.name}` needs more than {MOST_REPLICAS} replicas, the most of a plan",
                where=sources.at(
                    *(("use_cases", name, "traffic", "rate_rps") for name in self.demand.names)
                ),
                mend="\n  ".join(
                    ["give its use cases a pool each, or split them", *dict.fromkeys(self.dropped)]
                ),
            )
        if not self.ways:
            raise BadInput(
                f"no way to serve pool `{self.name}` reaches its targets",
                where=sources.at(*(("use_cases", name, "slo") for name in self.demand.names)),
                mend="\n  ".join(dict.fromkeys(self.dropped)),
            )


def make_plan(fleet: Fleet, traces: Mapping[str, Trace], sources: Sources) -> Plan:
    """The plan of a whole environment.

    Args:
        fleet: as it is declared, without a plan laid over it.
        traces: recorded arrivals by use case, where it names some.
        sources: where each of its fields stands.

    Raises:
        BadInput: a target that nothing reaches, a model that fits no GPU, use cases of a pool that
            share no region, a use case without traffic.
        PolicyRefused: the inventory or the budget holds no plan; with what fits. Or a pool needs
            more replicas than are planned.
        Failed: the choice over the node groups was not found.
    """
    every = grounds(fleet)
    cases = {
        name: _case(fleet, name, traces, sources)
        for name, pool in fleet.pools.items()
        if pool.use_cases
    }
    chosen = _settle(fleet, cases, every, sources)
    settled = {name: _settled(fleet, case, chosen[name]) for name, case in cases.items()}
    warnings: list[str] = []
    pools = []
    for name in fleet.pools:
        if name in settled:
            made, told = pool_plan(fleet, settled[name], every, sources)
            warnings += told
        else:
            made = kept_as_declared(fleet, name, sources)
            warnings.append(f"pool {name} has no use cases of its own: it stays as declared")
        pools.append(made)
    warnings += _about_evidence(settled)
    totals = totals_of(fleet, pools)
    spending = Spending(totals.cost_monthly)
    if overruns(fleet, spending):
        where = sources.at(("budget", "monthly"))
        demand_within_budget(fleet, spending, smaller_spending(fleet, pools, totals), where=where)
    return Plan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        currency=fleet.currency,
        fleet_digest=planned_from(fleet),
        pools=pools,
        totals=totals,
        explain=list(explained(fleet, pools, totals, sources)),
        warnings=warnings,
        seconds=0.0,
    )


def _about_evidence(settled: Mapping[str, Settled]) -> Iterator[str]:
    """What the evidence does not tell."""
    known: dict[Evidence, list[str]] = {}
    for name, each in settled.items():
        known.setdefault(each.candidate.speed.evidence, []).append(name)
    if guessed := known.get(Evidence.ROOFLINE):
        yield (
            f"the speed of {', '.join(guessed)} is known from no measurement, only from a roofline:"
            " measure it, and declare `measurements`"
        )
    if rated := known.get(Evidence.MEASURED_RATE):
        yield (
            f"the rate that was measured for {', '.join(rated)} tells nothing of first tokens: "
            "their predicted times are those in queue; `points` of a benchmark would tell"
        )


def _case(
    fleet: Fleet,
    name: str,
    traces: Mapping[str, Trace],
    sources: Sources,
) -> _Case:
    """A pool with every way to serve it."""
    demand = PoolDemand.of(fleet, name, traces)
    _demand_traffic(demand, sources)
    _demand_evidence(demand, sources)
    stands = allowed(fleet, name)
    if not stands:
        raise BadInput(
            "no node group stands where the data of all its use cases may be processed",
            where=sources.at(("pools", name, "use_cases")),
            mend="give the use cases a region in common, or a pool each",
        )
    found = candidates(fleet, name, demand, stands)
    if not found.found:
        raise BadInput(
            f"model `{fleet.pools[name].model}` fits no GPU that pool `{name}` may use",
            where=sources.at(("pools", name, "model")),
            mend="\n  ".join(found.reasons),
        )
    case = _Case(name, demand, stands, keeps_site_loss=len(declared_sites(fleet, name, stands)) > 1)
    for candidate in found.found:
        try:
            case.ways.append(case.way(fleet, candidate, expected(demand, candidate)))
        except Unreachable as why:
            case.drop(candidate, str(why))
    case.demand_any(sources)
    return case


def _demand_traffic(demand: PoolDemand, sources: Sources) -> None:
    for name, use_case in zip(demand.names, demand.use_cases, strict=True):
        if not any(use_case.traffic.hourly or [1.0]) or not any(use_case.traffic.weekly or [1.0]):
            raise BadInput(
                f"use case `{name}` has no traffic in any hour",
                where=sources.at(("use_cases", name, "traffic")),
                mend="give `hourly` and `weekly` a share above 0, or remove the use case",
            )


def _demand_evidence(demand: PoolDemand, sources: Sources) -> None:
    for name, trace in zip(demand.names, demand.traces, strict=True):
        if trace is not None and len(trace) < FEWEST_TRACED:
            raise BadInput(
                f"a trace of {len(trace)} requests tells too little of the traffic of `{name}`",
                where=sources.at(("use_cases", name, "traffic", "trace")),
                mend=f"record {FEWEST_TRACED} requests at least, or declare `index_of_dispersion` "
                "in its place",
            )


def _settle(
    fleet: Fleet, cases: Mapping[str, _Case], every: Mapping[str, Ground], sources: Sources
) -> dict[str, Pattern]:
    """The choice in which everything that is chosen was simulated."""
    free = {name: site.spare_nodes for name, site in fleet.sites.items() if site.spare_nodes}
    while True:
        demands = {name: _demand(fleet, case) for name, case in cases.items()}
        refused: Cannot | None = None
        try:
            chosen = choose(demands, every, free)
            wanted = list(cases)
        except Cannot as cannot:
            # Nothing is refused for what closed forms expect: that is simulated first.
            refused, chosen, wanted = cannot, dict(cannot.fitting), list(cannot.lacking)
        guessed = [n for n in wanted if not cases[n].ways[chosen[n].option].needs.exact]
        if not guessed and refused is not None:
            raise _refusal(fleet, refused, demands, sources)
        if not guessed:
            return chosen
        # The simulator lets go of the interpreter's lock: pools are simulated side by side.
        with ThreadPoolExecutor(os.cpu_count()) as side_by_side:
            jobs = [
                side_by_side.submit(_simulate, fleet, cases[name], chosen[name].option, sources)
                for name in guessed
            ]
        for job in jobs:
            job.result()


def _simulate(fleet: Fleet, case: _Case, index: int, sources: Sources) -> None:
    """Replace what a way is expected to need by what it needs; drop it where nothing is enough."""
    way = case.ways[index]
    try:
        needs = simulated(case.demand, way.candidate)
        case.too_large |= needs is None
        why = f"needs more than {MOST_REPLICAS} replicas"
    except Unreachable as unreachable:
        needs, why = None, str(unreachable)
    if needs is not None:
        case.surprise = max(case.surprise, needs.most / way.needs.most)
        case.ways[index] = case.way(fleet, way.candidate, needs)
        return
    case.drop(way.candidate, why)
    case.ways.pop(index)
    case.demand_any(sources)


def _demand(fleet: Fleet, case: _Case) -> Demand:
    pool = fleet.pools[case.name]
    autoscaled = _autoscaled(fleet, case.name)
    at_peak = case.demand.availability >= PEAK_AFTER_LOSS
    needs = [way.needs if way.needs.exact else way.needs.scaled(case.surprise) for way in case.ways]
    options = tuple(
        Option(
            gpu_type=way.candidate.gpu_type,
            gpus_per_node=way.candidate.gpus_per_node,
            nodes_per_replica=way.candidate.nodes_per_replica,
            concurrency_limit=way.candidate.concurrency_limit,
            steady=need.steady if autoscaled else need.most,
            most=need.most,
            after_loss=need.most if at_peak else need.usual,
            spares=max(
                0, -(-way.failures.spares // way.candidate.nodes_per_replica) - way.spare_places
            ),
        )
        for way, need in zip(case.ways, needs, strict=True)
    )
    return Demand(
        options=options,
        grounds=case.grounds,
        keeps_site_loss=case.keeps_site_loss,
        autoscaled=autoscaled,
        current={
            group: Stand(placement.replicas, placement.ceiling)
            for group, placement in pool.placements.items()
            if group in case.grounds
        },
    )


def _autoscaled(fleet: Fleet, name: str) -> bool:
    return fleet.pools[name].class_ is ServingClass.INTERACTIVE


def _settled(fleet: Fleet, case: _Case, chosen: Pattern) -> Settled:
    way = case.ways[chosen.option]
    return Settled(
        name=case.name,
        demand=case.demand,
        candidate=way.candidate,
        needs=way.needs,
        failures=way.failures,
        chosen=chosen,
        keeps_site_loss=case.keeps_site_loss,
        peak_after_loss=case.demand.availability >= PEAK_AFTER_LOSS,
        autoscaled=_autoscaled(fleet, case.name),
    )


def _refusal(
    fleet: Fleet, cannot: Cannot, demands: Mapping[str, Demand], sources: Sources
) -> PolicyRefused:
    """What does not fit, what would, and what buying the rest costs."""
    told, fits = [], []
    for name, lacking in cannot.lacking.items():
        fitting = cannot.fitting[name]
        option = demands[name].options[fitting.option]
        held = sum(stand.most for stand in fitting.stands.values())
        where = ", ".join(f"{stand.most} on {group}" for group, stand in fitting.stands.items())
        told.append(
            f"pool `{name}` needs {held + lacking} replicas of {option.gpus_per_replica} "
            f"{option.gpu_type} GPUs at its declared peak, and {held} fit ({where or 'nowhere'})"
        )
        more = lacking * option.gpus_per_replica
        share = f"{held / (held + lacking):.0%} of the peak of `{name}`"
        bought = _purchase(fleet, demands[name].grounds, option.gpu_type, more)
        fits.append(f"{share}; or all of it with {more} more {option.gpu_type} GPUs{bought}")
    return PolicyRefused(
        "; ".join(told),
        where=sources.at(("pools", next(iter(cannot.lacking)), "placements")),
        mend=f"what fits: {'; '.join(fits)}",
    )


def _purchase(fleet: Fleet, groups: Sequence[str], gpu_type: str, gpus: int) -> str:
    """What so many more GPUs cost as nodes like those that a pool may stand on."""
    group = next(
        (fleet.node_groups[n] for n in groups if fleet.node_groups[n].gpu_type == gpu_type), None
    )
    if group is None:
        return ""
    nodes = -(-gpus // group.gpus_per_node)
    price = nodes * group.price_per_node
    noun = "node" if nodes == 1 else "nodes"
    told = f": {nodes} {noun} for {price:,.0f} {fleet.currency}"
    if fleet.budget is None:
        return told
    return f"{told} of {fleet.budget.capital_yearly:,.0f} that `budget.capital_yearly` allows"
