"""A replica as a node agent tells of it, for tests that have none."""

from collections.abc import Iterable

from gpufleet.core import vocabulary as names
from gpufleet.spec.simulation import SimulatedReplica


def stand_in_replica(
    pool: str,
    pod: str,
    namespace: str = names.INTERACTIVE_NAMESPACE,
    faults: Iterable[str] = (),
) -> SimulatedReplica:
    """One that is ready and has nothing to do."""
    return SimulatedReplica(
        pool=pool,
        namespace=namespace,
        pod=pod,
        model="any",
        address="127.0.0.2",
        state="ready",
        restarts=0,
        running=0,
        waiting=0,
        kv_usage=0,
        faults=list(faults),
        speed="",
    )
