"""How the gateway is, from what its processes share and tell."""

from collections.abc import Sequence
from pathlib import Path

from gpufleet.core.gateway import series
from gpufleet.edges.exposition import Sample, scraped
from gpufleet.edges.gateway_files import read_published
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.gateway_answers import address_of
from gpufleet.local.gateway_layout import CONTROL
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import Failed
from gpufleet.spec.gateway import REPLICAS_FILE, ROUTES_FILE, Replica, Replicas, Routes
from gpufleet.spec.reports import GatewayPoolRow, GatewayReport, GatewayUseCaseRow


def status(workspace: Workspace, fleet_file: Path) -> GatewayReport:
    """Observe the embedded gateway.

    Raises:
        BadInput: the fleet file is not valid.
        Failed: the gateway was never up.
        Retryable: its control process does not answer.
    """
    fleet = load_fleet(fleet_file)
    state = workspace.for_fleet(fleet)
    address = address_of(state)
    routes = read_published(state.gateway / ROUTES_FILE, Routes)
    if routes is None:
        raise Failed("the gateway has no routes yet", mend="run ./fleet up")
    samples = scraped(f"http://127.0.0.1:{state.shared_port(CONTROL)}/metrics")
    replicas = read_published(state.gateway / REPLICAS_FILE, Replicas)
    return GatewayReport(
        fleet=fleet.fleet,
        environment=fleet.environment,
        url=address.url,
        authority=str(address.authority),
        file_ages_s=_by_label(samples, series.FILE_AGE_S, "file"),
        pools=_pools(routes, replicas, samples),
        use_cases=_use_cases(routes, samples),
    )


def _pools(
    routes: Routes, replicas: Replicas | None, samples: Sequence[Sample]
) -> list[GatewayPoolRow]:
    predicted = _by_label(samples, series.PREDICTED_QUEUE_S, "pool")
    ejected = _by_label(samples, series.EJECTED, "pool")
    rows = []
    for name, pool in routes.pools.items():
        there: list[Replica] = replicas.pools.get(name, []) if replicas else []
        rows.append(
            GatewayPoolRow(
                pool=name,
                model=pool.model,
                replicas=len(there),
                ready=sum(each.ready for each in there),
                answering=sum(each.answering for each in there),
                running=sum(each.running for each in there),
                waiting=sum(each.waiting for each in there),
                kv_usage=max((each.kv_usage for each in there), default=0),
                predicted_queue_s=predicted.get(name),
                ejected=int(ejected.get(name, 0)),
            )
        )
    return rows


def _use_cases(routes: Routes, samples: Sequence[Sample]) -> list[GatewayUseCaseRow]:
    in_flight = _by_label(samples, series.IN_FLIGHT, "use_case")
    spend = _by_label(samples, series.HOSTED_SPEND, "use_case")
    hits = _by_label(samples, series.CACHE_HITS, "use_case")
    saved = _by_label(samples, series.CACHE_SAVED, "use_case")
    answered = _answered(samples)
    return [
        GatewayUseCaseRow(
            use_case=name,
            pool=route.pool,
            fallback=route.fallback or "",
            in_flight=int(in_flight.get(name, 0)),
            concurrency_limit=route.concurrency_limit,
            queue_time_limit_s=route.queue_time_limit_s,
            hosted=f"{route.hosted.provider} {route.hosted.model}" if route.hosted else "",
            hosted_spend=spend.get(name),
            hosted_cap=float(route.hosted.monthly_cap) if route.hosted else None,
            **(
                {
                    "cache_hit_rate": hits.get(name, 0.0) / answered[name],
                    "cache_saved": saved.get(name, 0.0),
                }
                if route.cache_ttl_s is not None and answered.get(name)
                else {}
            ),
        )
        for name, route in routes.use_cases.items()
    ]


def _answered(samples: Sequence[Sample]) -> dict[str, float]:
    """Good answers since the gateway's start, by use case."""
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == series.REQUESTS and sample.labels.get("outcome") == "ok":
            name = sample.labels["use_case"]
            found[name] = found.get(name, 0.0) + sample.value
    return found


def _by_label(samples: Sequence[Sample], name: str, label: str) -> dict[str, float]:
    return {
        sample.labels[label]: sample.value
        for sample in samples
        if sample.name == name and label in sample.labels
    }
