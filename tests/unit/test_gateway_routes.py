"""What the gateway is told, as it follows from the fleet file and its plan."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import gateway_situations as declared

from gpufleet.core.gateway.drain import drain_s
from gpufleet.core.gateway.routes import fallback_pool, routes_of
from gpufleet.core.serving import longest_generation_s
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.gateway import Routes
from gpufleet.spec.hardware import ExistingCluster
from gpufleet.spec.serving import (
    DataClass,
    HostedAlternative,
    ServingClass,
    UseCaseLimits,
)

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
ARTICLE = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
HOSTED = HostedAlternative(provider="openai", model="gpt-5-mini", monthly_cap=Decimal(100))


def changed(fleet: Fleet, use_case: str, **changes: object) -> Fleet:
    """The fleet with other values of a use case."""
    cases = {**fleet.use_cases, use_case: fleet.use_cases[use_case].model_copy(update=changes)}
    return fleet.model_copy(update={"use_cases": cases})


def with_pool(fleet: Fleet, pool: str, **changes: object) -> Fleet:
    pools = {**fleet.pools, pool: fleet.pools[pool].model_copy(update=changes)}
    return fleet.model_copy(update={"pools": pools})


def test_every_use_case_has_a_route_and_every_pool_that_a_route_names_is_there() -> None:
    routes = routes_of(SAMPLE)
    assert routes.use_cases.keys() == SAMPLE.use_cases.keys()
    named = {name for route in routes.use_cases.values() for name in (route.pool, route.fallback)}
    assert named - {None} <= routes.pools.keys()
    assert routes.regions == {"fra1": "de", "dub1": "ie"}
    assert routes.hosted_monthly_cap == Decimal(10000)
    assert Routes.model_validate_json(routes.model_dump_json(by_alias=True)) == routes


@given(data_class=st.sampled_from(DataClass), use_case=st.sampled_from(sorted(SAMPLE.use_cases)))
def test_no_hosted_route_exists_for_data_that_may_not_leave(
    data_class: DataClass, use_case: str
) -> None:
    fleet = changed(SAMPLE, use_case, data_class=data_class, hosted=HOSTED)
    hosted = routes_of(fleet).use_cases[use_case].hosted
    assert (hosted is not None) == (data_class in {DataClass.PUBLIC, DataClass.INTERNAL})


def test_hosted_prices_are_in_the_fleet_s_currency_and_none_is_without_a_rate() -> None:
    rate = SAMPLE.exchange_rates["USD"].rate
    hosted = routes_of(SAMPLE).use_cases["research-analysis"].hosted
    assert hosted is not None
    assert hosted.input_per_million == Decimal("1.25") * Decimal(str(rate))
    assert hosted.output_per_million == Decimal(10) * Decimal(str(rate))
    without = routes_of(SAMPLE.model_copy(update={"exchange_rates": {}}))
    assert all(route.hosted is None for route in without.use_cases.values())
    unknown = HOSTED.model_copy(update={"model": "nobody-prices-this"})
    fleet = changed(SAMPLE, "code-assist", hosted=unknown)
    assert routes_of(fleet).use_cases["code-assist"].hosted is None


def test_a_fallback_serves_the_smaller_revision_for_the_same_class_in_an_allowed_region() -> None:
    chat = SAMPLE.use_cases["support-chat"]
    assert fallback_pool(SAMPLE, chat) == "small"
    batch = chat.model_copy(update={"class_": ServingClass.BATCH})
    assert fallback_pool(SAMPLE, batch) == "mail"
    # Batch work of this revision runs in Ireland only.
    assert fallback_pool(SAMPLE, batch.model_copy(update={"residency": ["de"]})) is None
    assert fallback_pool(SAMPLE, chat.model_copy(update={"fallback": None})) is None


def test_limits_are_the_plan_s_where_there_is_one() -> None:
    planned = UseCaseLimits(concurrency_limit=123, queue_time_limit_s=0.3)
    fleet = with_pool(ARTICLE, "answers", limits={"answers": planned}, queue_limit=5)
    routes = routes_of(fleet)
    assert routes.use_cases["answers"].concurrency_limit == 123
    assert routes.use_cases["answers"].queue_time_limit_s == 0.3
    assert routes.pools["answers"].queue_limit == 5


def test_without_a_plan_a_use_case_alone_may_fill_its_pool_and_wait_its_time_to_first_token() -> (
    None
):
    route = routes_of(ARTICLE).use_cases["answers"]
    # 10 replicas of 16 requests in flight, and as many waiting; a measured rate has no prefill.
    assert route.concurrency_limit == 10 * (16 + 16)
    assert route.queue_time_limit_s == ARTICLE.use_cases["answers"].slo.ttft_p95_s


def test_without_a_plan_no_use_case_may_fill_a_shared_pool() -> None:
    fleet = changed(
        SAMPLE,
        "agent-assist",
        traffic=SAMPLE.use_cases["agent-assist"].traffic.model_copy(
            update={"rate_rps": 1.0, "peaks": []}
        ),
    )
    routes, pool = routes_of(fleet), fleet.pools["chat"]
    most = sum(each.ceiling for each in pool.placements.values()) * 2 * pool.concurrency_limit
    assert (routes.use_cases["agent-assist"].concurrency_limit or most) < most / 5
    for name in ("support-chat", "agent-assist"):
        slo = fleet.use_cases[name].slo
        assert 0 < routes.use_cases[name].queue_time_limit_s < slo.ttft_p95_s


def test_a_pool_s_time_in_service_is_its_limit_over_its_measured_rate() -> None:
    # 16 in flight at 8 requests/s: 2 s each, by Little's law.
    assert routes_of(ARTICLE).pools["answers"].time_in_service_s == 2.0


def test_tokens_cost_what_the_replicas_cost_over_what_they_serve() -> None:
    cost = routes_of(ARTICLE).pools["answers"].cost_per_million_tokens
    assert cost is not None
    # 290,000 * 1.15 / 8 GPUs / (4 * 8760 h) = 1.19 an hour, power 700 W at 60 %: 0.13 an hour;
    # 8 requests/s of 600 tokens at 60 % are 10.4 million tokens an hour.
    assert cost == pytest.approx(Decimal("0.127"), abs=Decimal("0.001"))


def test_a_model_of_unknown_shape_is_timed_by_what_its_users_were_promised() -> None:
    models = {
        **ARTICLE.models,
        "llama-3.1-8b": ARTICLE.models["llama-3.1-8b"].model_copy(update={"model": "acme/own"}),
    }
    fleet = ARTICLE.model_copy(update={"models": models, "measurements": {}})
    routes = routes_of(fleet)
    assert routes.pools["answers"].cost_per_million_tokens is None
    assert routes.pools["answers"].time_in_service_s == pytest.approx(0.5 + 1.5 * 100 / 200)
    assert routes.use_cases["answers"].queue_time_limit_s == 0.25


def test_a_request_has_the_time_that_a_drain_gives_it_and_its_time_in_a_queue() -> None:
    route = routes_of(SAMPLE).use_cases["ticket-triage"]
    drain_s = longest_generation_s(SAMPLE, SAMPLE.pools["small"])
    assert route.timeout_s == drain_s + route.queue_time_limit_s


def test_content_is_kept_and_gaps_are_allowed_only_where_retention_says_so() -> None:
    routes = routes_of(SAMPLE).use_cases
    assert routes["code-assist"].content_kept
    assert not routes["support-chat"].content_kept
    unsaid = routes_of(SAMPLE.model_copy(update={"retention": {}})).use_cases["code-assist"]
    assert (unsaid.audit_required, unsaid.content_kept) == (True, False)
    internal = SAMPLE.retention[DataClass.INTERNAL].model_copy(update={"audit_required": False})
    lax = SAMPLE.model_copy(update={"retention": {DataClass.INTERNAL: internal}})
    assert not routes_of(lax).use_cases["code-assist"].audit_required


def test_a_pool_that_no_use_case_reaches_is_not_told() -> None:
    fleet = changed(SAMPLE, "support-chat", fallback=None)
    fleet = changed(fleet, "agent-assist", fallback=None)
    fleet = changed(fleet, "code-assist", fallback=None)
    pools = {name: pool for name, pool in fleet.pools.items() if name != "mail"}
    mail = fleet.pools["mail"].model_copy(update={"use_cases": []})
    cases = {name: case for name, case in fleet.use_cases.items() if name != "mail-classification"}
    fleet = fleet.model_copy(update={"pools": {**pools, "mail": mail}, "use_cases": cases})
    assert "mail" not in routes_of(fleet).pools


def test_a_replica_is_filled_only_as_far_as_long_answers_keep_their_promise() -> None:
    # 8 requests/s whatever is in flight, answers of 200 tokens at p95 and 100 in the mean: 8 in
    # flight take 1 s for a mean answer, and the promised 2 s for a long one.
    pool = routes_of(ARTICLE).pools["answers"]
    assert (pool.concurrency_limit, pool.promised_at) == (16, 8)


def test_a_pool_that_could_not_serve_its_traffic_so_is_filled_as_far_as_its_engines_go() -> None:
    pool = routes_of(SAMPLE).pools["legal"]
    assert pool.promised_at == pool.concurrency_limit


def test_limits_and_caps_are_shared_among_the_pods_of_all_sites() -> None:
    assert routes_of(ARTICLE).pods == 1
    real = ExistingCluster(provider="existing", context="a")
    sites = {name: site.model_copy(update={"cluster": real}) for name, site in SAMPLE.sites.items()}
    fleet = SAMPLE.model_copy(
        update={
            "sites": sites,
            "gateway": SAMPLE.gateway.model_copy(update={"replicas": 3}),
            "images": SAMPLE.images.model_copy(update={"gateway": "g@sha256:" + "0" * 64}),
        }
    )
    assert routes_of(fleet).pods == 3 * len(sites) == 6
    [first, *_] = sites
    mixed = {**sites, first: SAMPLE.sites[first]}
    assert routes_of(fleet.model_copy(update={"sites": mixed})).pods == 3 + 1


@pytest.mark.parametrize(("longest_s", "drained_s"), [(0.5, 5), (90.2, 91), (4000, 600)])
def test_a_gateway_that_stops_waits_as_long_as_a_request_may_take_within_a_limit(
    longest_s: float, drained_s: int
) -> None:
    use_cases = {"a": declared.route(timeout_s=0.5), "b": declared.route(timeout_s=longest_s)}
    assert drain_s(declared.routes(use_cases, {})) == drained_s
