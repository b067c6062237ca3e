"""What a playbook that a person has started may take out of service."""

from collections.abc import Mapping, Sequence

from gpufleet.core.patching.capacity import PoolCapacity, PoolKey
from gpufleet.core.patching.waves import batch_refusal
from gpufleet.spec.patching import HostChange


def breaker_refusal(failed: Sequence[str], allowed: int) -> str:
    """Why no further batch may begin; empty where it may.

    Args:
        failed: hosts of earlier batches that did not get there.
        allowed: how many of them are accepted.
    """
    if len(failed) <= allowed:
        return ""
    named = ", ".join(sorted(failed)[:8])
    return f"{len(failed)} hosts failed ({named}), {allowed} may: nothing more is begun"


def hosts_refusal(
    batch: Sequence[HostChange], load: Mapping[PoolKey, PoolCapacity], *, is_rollback: bool
) -> str:
    """Why these hosts may not be out of service together now; empty where they may.

    Args:
        batch: the hosts; one that is out of service already, and holds nothing, takes nothing away.
        load: what each pool has at each site, by `(site, pool)`.
        is_rollback: a pool that is below its promise does not hold back what may mend it.
    """

    def counts(host: HostChange, pool: str) -> bool:
        capacity = load.get((host.site, pool))
        if capacity is None:
            return True
        if host.host not in capacity.slots and host.host in capacity.idle:
            return False
        return not (is_rollback and capacity.ready < capacity.floor)

    asked = [
        host.model_copy(update={"pools": [pool for pool in host.pools if counts(host, pool)]})
        for host in batch
    ]
    return batch_refusal(asked, load)
