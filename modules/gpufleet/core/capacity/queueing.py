"""Closed forms of queueing: bounds for the search, checks of the simulator, the peers' rules.

Rates are requests/s, times s, loads Erlang (rate times service time).
Sources: L. Kleinrock, Queueing Systems I (1975), sections 3.5 and 5.6, II (1976), section 4.4;
A. O. Allen, Probability, Statistics and Queueing Theory (1990), section 5.3 (Allen-Cunneen);
W. Whitt, Understanding the efficiency of multi-server service systems (Management Science, 1992).
"""

import math
from statistics import NormalDist


def erlang_b(servers: int, load: float) -> float:
    """Share of requests that M/M/c/c refuses, by the stable recursion over servers."""
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """Share of requests that wait in M/M/c; 1 where the load is not below the servers."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1 - blocked))


def mmc_mean_wait_s(servers: int, rate_rps: float, service_s: float) -> float:
    """Mean wait of M/M/c."""
    load = rate_rps * service_s
    if load >= servers:
        return math.inf
    return erlang_c(servers, load) * service_s / (servers - load)


def mmc_wait_quantile_s(servers: int, rate_rps: float, service_s: float, share: float) -> float:
    """The wait that `share` of the requests of M/M/c do not exceed."""
    load = rate_rps * service_s
    if load >= servers:
        return math.inf
    waits = erlang_c(servers, load)
    return max(0.0, math.log(waits / (1 - share)) * service_s / (servers - load))


def md1_mean_wait_s(rate_rps: float, service_s: float) -> float:
    """Mean wait of M/D/1 (Pollaczek-Khinchine with no variance of service)."""
    load = rate_rps * service_s
    return load * service_s / (2 * (1 - load)) if load < 1 else math.inf


def ggc_mean_wait_s(
    servers: int, rate_rps: float, service_s: float, *, arrival_scv: float, service_scv: float
) -> float:
    """Mean wait of G/G/c by Allen and Cunneen: M/M/c's, scaled by the mean of the variabilities.

    Args:
        servers: c.
        rate_rps: of arrivals.
        service_s: mean service time.
        arrival_scv: squared coefficient of variation between arrivals; for bursty streams the
            index of dispersion stands in for it.
        service_scv: squared coefficient of variation of the service time.
    """
    return mmc_mean_wait_s(servers, rate_rps, service_s) * (arrival_scv + service_scv) / 2


def processor_sharing_mean_s(rate_rps: float, service_s: float) -> float:
    """Mean time in M/G/1 under processor sharing; only the mean of the service time matters."""
    load = rate_rps * service_s
    return service_s / (1 - load) if load < 1 else math.inf


def replicas_by_rate(rate_rps: float, replica_rps: float) -> int:
    """The article's rule: the rate over what one replica serves, rounded up."""
    return math.ceil(rate_rps / replica_rps - 1e-9)


def replicas_by_erlang_c(
    rate_rps: float, replica_rps: float, limit_s: float, share: float = 0.95
) -> int:
    """The fewest replicas, each one server, with which `share` wait no longer than `limit_s`."""
    replicas = replicas_by_rate(rate_rps, replica_rps)
    while mmc_wait_quantile_s(replicas, rate_rps, 1 / replica_rps, share) > limit_s:
        replicas += 1
    return replicas


def replicas_by_square_root(rate_rps: float, replica_rps: float, share: float = 0.95) -> int:
    """Square-root staffing: the load, and the normal quantile of `share` times its root."""
    load = rate_rps / replica_rps
    return math.ceil(load + NormalDist().inv_cdf(share) * math.sqrt(load))
