"""How each number of a pool's plan came about, step by step, with its source."""

from collections.abc import Iterator, Sequence
from typing import Final

from gpufleet.core.capacity.headroom import kept_available, wave_nodes
from gpufleet.core.capacity.replica import UNBOUNDED_TOKENS, Evidence
from gpufleet.core.capacity.settled import Settled
from gpufleet.core.capacity.traffic import BusiestHour
from gpufleet.core.cost.hardware import HOURS_PER_MONTH, gpu_hour
from gpufleet.core.sources import Sources
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plans import ArithmeticStep, PoolPlan

_DAY_S: Final = 86_400
_HOUR_S: Final = 3600


def arithmetic(
    fleet: Fleet, settled: Settled, plan: PoolPlan, sources: Sources
) -> Iterator[ArithmeticStep]:
    """Every step, in the order in which a reader needs them."""
    yield from _speed(settled, plan, sources)
    yield from _replicas(settled, plan, sources)
    yield from _predictions(settled, plan, sources)
    yield from _limits(settled, plan, sources)
    yield from _headroom(fleet, settled, plan, sources)
    yield from _money(fleet, settled, plan, sources)


def _speed(settled: Settled, plan: PoolPlan, sources: Sources) -> Iterator[ArithmeticStep]:
    speed, limit = settled.candidate.speed, settled.candidate.concurrency_limit
    room = ""
    if speed.kv_capacity_tokens < UNBOUNDED_TOKENS:
        room = f"; its KV cache holds {speed.kv_capacity_tokens:,} tokens"
    yield ArithmeticStep(
        number="evidence",
        text=f"a step of {limit} decoding requests takes {speed.decode_s[limit]:.3g} s, each "
        f"prompt token {speed.prefill_token_s:.3g} s more{room}",
        source=speed.source,
    )
    yield ArithmeticStep(
        number="tp",
        text=f"{plan.tp} GPUs of each of {plan.pp} nodes are a replica: the cheapest way that the "
        "targets and the inventory leave",
        source=sources.at(
            *(("pools", plan.pool, "placements", group) for group in plan.placements)
        ),
    )


def _replicas(settled: Settled, plan: PoolPlan, sources: Sources) -> Iterator[ArithmeticStep]:
    demand, needs = settled.demand, settled.needs
    rates = [("use_cases", name, "traffic", "rate_rps") for name in demand.names]
    slos = [("use_cases", name, "slo") for name in demand.names]
    spread = [
        ("use_cases", name, "traffic", "trace")
        if trace is not None
        else ("use_cases", name, "traffic", "index_of_dispersion")
        for name, trace in zip(demand.names, demand.traces, strict=True)
    ]
    unit = settled.gpus_per_replica
    yield ArithmeticStep(
        number="replicas_min",
        text=f"busiest hour of a usual day: {_asked(settled, demand.usual_hours)}; "
        f"smooth arrivals hold the targets with {needs.steady} replicas, simulated",
        source=sources.at(*rates, *slos),
    )
    more = ""
    if settled.steady != needs.steady and settled.autoscaled:
        more = f", and one at each site: {settled.steady}"
    if not settled.autoscaled:
        more = f"; batch replicas do not scale, so all {settled.steady} for the peak always run"
    yield ArithmeticStep(
        number="gpus_steady",
        text=f"{settled.steady} replicas x {unit} GPUs = {plan.gpus_steady}{more}",
    )
    peaks = sorted({peak for peak in demand.peak.peaks if peak})
    named = f" ({', '.join(peaks)})" if peaks else ""
    peak_sources = [
        ("use_cases", name, "traffic", "peaks")
        for name, use_case in zip(demand.names, demand.use_cases, strict=True)
        if use_case.traffic.peaks
    ]
    yield ArithmeticStep(
        number="replicas_max",
        text=f"declared peak{named}: {_asked(settled, demand.peak_hours)}; as bursty as declared, "
        f"{needs.most} replicas hold the targets, simulated; smooth arrivals would need "
        f"{settled.at_peak.smooth_replicas}{_for_site_loss(settled)}",
        source=sources.at(*peak_sources, *spread),
    )
    yield ArithmeticStep(
        number="gpus_burst",
        text=f"({settled.peak} - {settled.steady}) replicas x {unit} GPUs = {plan.gpus_burst}",
    )
    yield ArithmeticStep(
        number="headroom.site_loss",
        text=plan.site_loss
        if plan.site_loss != "kept"
        else "kept: without any one site, the others' replicas are enough for "
        + ("the declared peak" if settled.peak_after_loss else "a usual day's busiest hour"),
        source=sources.at(*(("use_cases", name, "slo", "availability") for name in demand.names)),
    )


def _predictions(settled: Settled, plan: PoolPlan, sources: Sources) -> Iterator[ArithmeticStep]:
    unit = settled.gpus_per_replica
    for seen in plan.by_use_case:
        yield ArithmeticStep(
            number="predicted",
            text=f"{seen.use_case} on {settled.peak} replicas in its busiest hour, simulated: "
            f"p95 {seen.p95_s:g} of {seen.p95_limit_s:g} s, first token {seen.ttft_p95_s:g} of "
            f"{seen.ttft_p95_limit_s:g} s, {seen.error_rate:.2%} of {seen.error_rate_limit:.2%} "
            "lost",
            source=sources.at(
                ("use_cases", seen.use_case, "slo"), ("use_cases", seen.use_case, "tokens")
            ),
        )
    yield ArithmeticStep(
        number="predicted.utilization",
        text=f"{plan.predicted.utilization:.1%} of the time that {settled.steady} replicas work in "
        "the busiest hour of a usual day",
        source=sources.at(*(("use_cases", n, "traffic", "rate_rps") for n in plan.use_cases)),
    )
    yield ArithmeticStep(
        number="smooth_gpus",
        text=f"{plan.smooth_gpus // unit} replicas x {unit} GPUs = {plan.smooth_gpus} would hold "
        "the peak if its arrivals were Poisson, simulated",
    )


def _for_site_loss(settled: Settled) -> str:
    if settled.most == settled.peak:
        return ""
    return f"; {settled.most} so that the loss of a site passes"


def _asked(settled: Settled, hours: Sequence[BusiestHour]) -> str:
    """Requests of the pool's busiest hour, and of those of use cases that are quiet in it."""
    told = []
    for hour in hours:
        rates = [
            f"{name} {rate:.4g}"
            for name, rate in zip(settled.demand.names, hour.rates_rps, strict=True)
        ]
        total = f" = {sum(hour.rates_rps):.4g}" if len(rates) > 1 else ""
        told.append(f"{' + '.join(rates)}{total} requests/s")
    return ", and at another hour ".join(told)


def _limits(settled: Settled, plan: PoolPlan, sources: Sources) -> Iterator[ArithmeticStep]:
    why = (
        "as declared, since the rate was measured with it"
        if settled.candidate.speed.evidence is Evidence.MEASURED_RATE
        else "more would make answers slower than promised, outgrow the KV cache, or save no "
        "replica"
    )
    yield ArithmeticStep(
        number="concurrency_limit",
        text=f"{plan.concurrency_limit} in flight at a replica: {why}",
        source=sources.at(("pools", plan.pool, "concurrency_limit")),
    )
    yield ArithmeticStep(
        number="queue_limit",
        text=f"{plan.queue_limit} may wait at a replica: as many as it serves in the longest wait "
        "that the targets leave, since whoever came behind them would miss the target all the "
        "same; doubled until no more are refused than may be lost, simulated",
        source=sources.at(
            *(("use_cases", n, "slo", "ttft_p95_s") for n in settled.demand.names),
            *(("use_cases", n, "slo", "error_rate") for n in settled.demand.names),
        ),
    )
    yield ArithmeticStep(
        number="queue_time_target_s",
        text=f"{plan.queue_time_target_s:g} s in queue ask for one more replica",
        source=sources.at(*(("use_cases", n, "slo", "ttft_p95_s") for n in settled.demand.names)),
    )
    in_flight = plan.replicas_max * (plan.concurrency_limit + plan.queue_limit)
    for name, limits in plan.limits.items():
        yield ArithmeticStep(
            number=f"limits.{name}",
            text=f"{limits.concurrency_limit} of {in_flight} places ({plan.replicas_max} replicas "
            f"x ({plan.concurrency_limit} + {plan.queue_limit})): at most twice its share of the "
            f"work in its busiest hour; {limits.queue_time_limit_s:g} s are left of "
            "its first token's target",
            source=sources.at(("use_cases", name, "slo", "ttft_p95_s")),
        )
    for peak in plan.prewarm:
        counts = ", ".join(f"{count} on {group}" for group, count in peak.replicas.items())
        yield ArithmeticStep(
            number="prewarm",
            text=f"{counts} from {peak.lead_s:g} s before `{peak.name}`: restore of the weights "
            "and three times the measured load time",
            source=sources.at(
                *(("use_cases", name, "traffic", "peaks") for name in plan.use_cases),
                ("models", plan.model, "load_time_s"),
            ),
        )


def _headroom(
    fleet: Fleet, settled: Settled, plan: PoolPlan, sources: Sources
) -> Iterator[ArithmeticStep]:
    failures = settled.failures
    suppliers = [
        ("suppliers", supplier, "rma_turnaround_s")
        for group in plan.placements
        if (supplier := fleet.node_groups[group].supplier)
    ]
    yield ArithmeticStep(
        number="headroom.failures",
        text=f"{failures.gpus} GPUs x {failures.annual_failure_rate:.0%} a year x "
        f"{failures.repair_s / _DAY_S:.0f} days to replace = {failures.mean:.2f} broken on "
        f"average; at most {failures.spares} in {failures.availability:.2%} of the time "
        f"(Poisson), and each takes {plan.tp} of its node along: {plan.headroom.failures} GPUs",
        source=sources.at(*dict.fromkeys(suppliers), ("gpus", plan.gpu_type)),
    )
    pool = fleet.pools[plan.pool]
    kept = kept_available(settled.steady, pool.min_available)
    waves = ", ".join(
        f"{wave_nodes(fleet.node_groups[name])} of {name}" for name in plan.placements
    )
    yield ArithmeticStep(
        number="headroom.maintenance",
        text=f"a wave takes {waves} away (nodes), and {kept} of {settled.steady} replicas have to "
        f"stay: {plan.headroom.maintenance} GPUs beyond the burst's",
        source=sources.at(("pools", plan.pool, "min_available")),
    )
    yield ArithmeticStep(
        number="headroom.surge",
        text=f"a rollout starts replicas before it stops others: {plan.headroom.surge} GPUs "
        "beyond the burst's and maintenance's",
        source=sources.at(
            *(("pools", plan.pool, "placements", group) for group in plan.placements)
        ),
    )


def _money(
    fleet: Fleet, settled: Settled, plan: PoolPlan, sources: Sources
) -> Iterator[ArithmeticStep]:
    prices = [("node_groups", group, "price_per_node") for group in plan.placements]
    share = fleet.costs.default_utilization
    parts = [
        f"{each.gpus} GPUs of {group} x "
        f"{HOURS_PER_MONTH:g} hours x {gpu_hour(fleet, group).total(share):.4f}"
        for group, each in plan.placements.items()
    ]
    yield ArithmeticStep(
        number="cost_monthly",
        text=f"{' + '.join(parts)} = {plan.cost_monthly:,} {fleet.currency}; a GPU-hour is "
        f"hardware, power at {share:.0%} utilization, facility and on-call",
        source=sources.at(*prices),
    )
    if plan.cost_per_1k is not None:
        gpu_s = settled.request_gpu_hours(fleet, plan) * _HOUR_S
        gpus = settled.most * settled.gpus_per_replica
        hourly = plan.cost_monthly / HOURS_PER_MONTH / gpus
        buffer = fleet.governance.cost_buffer
        yield ArithmeticStep(
            number="cost_per_1k",
            text=f"1,000 requests x {gpu_s:.4g} GPU-seconds at {share:.0%} utilization / "
            f"{_HOUR_S:,} x {hourly:.4f} a GPU-hour x {1 + buffer:g} with its buffer = "
            f"{plan.cost_per_1k} {fleet.currency}",
            source=sources.at(("costs", "default_utilization"), ("governance", "cost_buffer")),
        )
    if plan.cost_per_1k_usd is not None and fleet.currency != "USD":
        yield ArithmeticStep(
            number="cost_per_1k_usd",
            text=f"{plan.cost_per_1k} {fleet.currency} / {fleet.exchange_rates['USD'].rate:g} = "
            f"{plan.cost_per_1k_usd} USD",
            source=sources.at(("exchange_rates", "USD")),
        )
