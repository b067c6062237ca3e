"""Routes, pools and replicas for tests of the gateway's decisions."""

import time
from decimal import Decimal

from hypothesis import strategies as st

from gpufleet.spec.gateway import (
    Gateway,
    HostedRoute,
    Key,
    Keys,
    PoolRoute,
    Replica,
    Replicas,
    Route,
    Routes,
)
from gpufleet.spec.serving import DataClass, ServingClass

DIGEST = "sha256:" + "a" * 64
REGIONS = {"fra1": "eu-central", "nyc1": "us-east"}


def route(**changes: object) -> Route:
    """An interactive use case of internal data in the EU, changed as asked."""
    declared: dict[str, object] = {
        "team": "support",
        "class": "interactive",
        "data_class": "internal",
        "residency": ["eu-central"],
        "pool": "chat",
        "fallback": None,
        "hosted": None,
        "summary_tokens": None,
        "queue_time_limit_s": 1.0,
        "concurrency_limit": None,
        "output_max_tokens": 512,
        "timeout_s": 30.0,
        "ttft_p95_s": 1.0,
        "p95_s": 10.0,
        "cache_ttl_s": None,
        "audit_required": True,
        "content_kept": False,
    }
    return Route.model_validate({**declared, **changes})


def pool_route(**changes: object) -> PoolRoute:
    """A pool of replicas with 8 places and 2 s in service."""
    declared: dict[str, object] = {
        "model": "large-1",
        "digest": DIGEST,
        "class": "interactive",
        "concurrency_limit": 8,
        "promised_at": 8,
        "queue_limit": None,
        "cost_per_million_tokens": "1.5",
        "time_in_service_s": 2.0,
    }
    return PoolRoute.model_validate({**declared, **changes})


def hosted(url: str | None = None, cap: str = "100") -> HostedRoute:
    """A hosted API at 1 and 2 for a million tokens."""
    return HostedRoute(
        provider="openai",
        model="hosted-1",
        url=url,
        monthly_cap=Decimal(cap),
        input_per_million=Decimal(1),
        output_per_million=Decimal(2),
    )


def replica(uid: str = "u0", **changes: object) -> Replica:
    """A ready replica in the EU that was never polled, changed as asked."""
    declared: dict[str, object] = {
        "name": f"chat-{uid}",
        "uid": uid,
        "site": "fra1",
        "url": "http://127.0.0.1:9",
        "ready": True,
        "answering": False,
    }
    return Replica.model_validate({**declared, **changes})


def routes(
    use_cases: dict[str, Route], pools: dict[str, PoolRoute], gateway: Gateway | None = None
) -> Routes:
    """Everything that a gateway is told."""
    return Routes(
        fleet="test",
        environment="test",
        currency="EUR",
        hosted_monthly_cap=None,
        gateway=gateway or Gateway(workers=1),
        use_cases=use_cases,
        pools=pools,
        regions=REGIONS,
    )


def replicas(**pools: list[Replica]) -> Replicas:
    """Who serves, as of now."""
    return Replicas(at=time.time(), pools=pools)


def keys(*known: Key) -> Keys:
    """Who may ask, as of now."""
    return Keys(at=time.time(), keys=list(known))


waits = st.floats(0, 100) | st.just(float("inf"))
any_route = st.builds(
    lambda data_class, class_, fallback, hosts, summary, limit_s: route(
        data_class=data_class,
        **{"class": class_},
        fallback=fallback,
        hosted=hosted() if hosts else None,
        summary_tokens=summary,
        queue_time_limit_s=limit_s,
    ),
    st.sampled_from(list(DataClass)),
    st.sampled_from(list(ServingClass)),
    st.none() | st.just("small"),
    st.booleans(),
    st.none() | st.integers(1, 200),
    st.floats(0.05, 20),
)
any_replica = st.builds(
    lambda uid, site, ready, answering, running, waiting, rate, queue_s, age_s: replica(
        uid,
        site=site,
        ready=ready,
        answering=answering,
        running=running,
        waiting=waiting,
        finished_rps=rate,
        queue_time_s=queue_s,
        seen_at=1000 - age_s,
    ),
    st.text("abcdef", min_size=1, max_size=4),
    st.sampled_from(["fra1", "nyc1", "nowhere"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 8),
    st.integers(0, 50),
    st.floats(0, 20),
    st.floats(0, 20),
    st.floats(-10, 100),
)
