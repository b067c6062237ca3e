"""The proof that an environment serves: every replica is ready, and none is of an old pod."""

import time
from typing import Final

from gpufleet.core.observed import rolling
from gpufleet.core.serving import pools_at
from gpufleet.core.vocabulary import POOL
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.environment import Environment, OnProgress
from gpufleet.flows.pool_view import observed_pools
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.progress import ReplicaProgress
from gpufleet.spec.reports import PoolRow

READY_WITHIN_S: Final = 300
"""Or as long as a pool's rolling update may take, where that is longer."""
_POLL_S: Final = 0.5
_DEPLOYMENTS: Final = collection_path("apps/v1", "Deployment", None)


def wait_ready(environment: Environment, on_progress: OnProgress) -> list[PoolRow]:
    """Wait until every replica is ready and of the declared pod: Pulumi does not wait for them.

    Raises:
        TargetMissed: names the pools that are not.
    """
    started = time.monotonic()
    fleet = environment.fleet
    clusters = {site: environment.cluster(site) for site in environment.reachable}
    patience_s = {
        (site, pool.name): max(READY_WITHIN_S, pool.rollout_timeout_s)
        for site in fleet.sites
        for pool in pools_at(fleet, site)
    }
    while True:
        rows: list[PoolRow] = []
        moving: set[tuple[str, str]] = set()
        looked = time.monotonic()
        for site, cluster in clusters.items():
            found = observed_pools(fleet, site, cluster)
            moving |= {(site, pool) for pool in rolling(cluster.items(_DEPLOYMENTS, labels=POOL))}
            ready, wanted = (
                sum(row.replicas_ready for row in found),
                sum(row.replicas_wanted for row in found),
            )
            on_progress(ReplicaProgress(site, ready, wanted, time.monotonic() - started))
            rows += found
        late = [row for row in rows if not row.is_ready or (row.site, row.pool) in moving]
        if not late:
            return rows
        waited_s = time.monotonic() - started
        if overdue := [row for row in late if waited_s > patience_s[row.site, row.pool]]:
            names = ", ".join(
                f"{row.pool} at {row.site} ({row.replicas_ready} of {row.replicas_wanted})"
                for row in overdue
            )
            raise TargetMissed(
                f"after {waited_s:.0f} s replicas are not ready: {names}",
                mend='look: eval "$(./fleet env)"; kubectl get pods -A -l gpufleet.dev/pool',
            )
        # Thousands of pods take a while to list: most of the time is theirs to get ready.
        time.sleep(max(_POLL_S, 2 * (time.monotonic() - looked)))
