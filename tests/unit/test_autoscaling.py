"""What a pool scales on: where the gateway takes a replica for full, and what it sent elsewhere."""

from dataclasses import replace

import pytest

from gpufleet.core.autoscaling import full_replica, overflow_query, scaled_object
from gpufleet.core.gateway.routes import routes_of
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
ROUTES = routes_of(FLEET)
POOLS = [pool for site in FLEET.sites for pool in pools_at(FLEET, site)]
TOLERANCE = 0.1
"""By which a load has to pass its target before Kubernetes' autoscaler acts."""


@pytest.mark.parametrize(
    "pool", [pool for pool in POOLS if pool.autoscaled], ids=lambda pool: f"{pool.site}-{pool.name}"
)
def test_a_pool_grows_before_its_gateway_sends_requests_elsewhere(pool: PoolAtSite) -> None:
    running, *_ = scaled_object(pool, full_replica(FLEET, pool), "http://p")["triggers"]
    acts_from = float(running["metadata"]["threshold"]) * (1 + TOLERANCE)
    route = ROUTES.pools[pool.name]
    assert acts_from < route.promised_at <= route.concurrency_limit


def test_the_placements_of_a_pool_share_what_it_could_not_take() -> None:
    for name in FLEET.pools:
        shares = [full_replica(FLEET, pool).share for pool in POOLS if pool.name == name]
        assert sum(shares) == pytest.approx(1)


def test_a_pool_of_no_use_case_has_no_overflow_of_its_own() -> None:
    pool = next(pool for pool in POOLS if pool.autoscaled)
    full = full_replica(FLEET, pool)
    assert overflow_query(pool, full)
    alone = replace(pool, use_cases=())
    assert overflow_query(alone, full) is None
    spec = scaled_object(alone, full, "http://p")
    assert "overflow" not in {trigger["name"] for trigger in spec["triggers"]}
