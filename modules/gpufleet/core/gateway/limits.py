"""What the gateway is told of the pools."""

import json

from gpufleet.spec.fleet import Fleet


def gateway_limits(fleet: Fleet) -> dict[str, str]:
    """What the gateway accepts, a JSON object by use case; empty where no pool sets a limit.

    `pool`, `concurrency_limit` (requests in flight over all replicas), `queue_time_limit_s` (the
    predicted time in queue at which requests overflow) and `queue_limit` (requests that wait at one
    replica; null for no limit).
    """
    return {
        use_case: json.dumps(
            {"pool": name, **limits.model_dump(), "queue_limit": pool.queue_limit}, sort_keys=True
        )
        for name, pool in fleet.pools.items()
        for use_case, limits in pool.limits.items()
    }
