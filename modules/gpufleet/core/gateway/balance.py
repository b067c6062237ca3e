"""Which replica gets a request: those that may, and of them the one that is free soonest."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from gpufleet.core.gateway.queueing import Load
from gpufleet.spec.gateway import Replica


def allowed(
    replicas: Iterable[Replica], regions: Mapping[str, str], residency: Collection[str]
) -> list[Replica]:
    """Replicas in whose region the data may be processed; an unknown site is in none."""
    return [each for each in replicas if regions.get(each.site) in residency]


def serving(replicas: Iterable[Replica], ejected: Collection[str]) -> list[Replica]:
    """Replicas that are ready and not ejected, by uid.

    One whose metrics could not be read still counts: its requests say whether it works.
    """
    return [each for each in replicas if each.ready and each.uid not in ejected]


def choose(
    loads: Iterable[Load],
    concurrency_limit: int,
    tried: Collection[str] = (),
    pick: Callable[[Sequence[Load]], Load] = lambda equal: equal[0],
) -> Replica | None:
    """The replica with the shortest predicted wait, then with the most free places.

    Args:
        loads: of the replicas that may serve the request.
        concurrency_limit: places of a replica.
        tried: uids of replicas that have already failed this request.
        pick: decides between equals; at random, so that workers do not all take the first.

    Returns None where no replica has room.
    """
    able = [load for load in loads if not load.full and load.replica.uid not in tried]
    if not able:
        return None

    def rank(load: Load) -> tuple[float, float]:
        seen = max(load.in_flight, load.replica.running if load.replica.answering else 0)
        return load.wait_s, seen / concurrency_limit

    best = min(rank(load) for load in able)
    return pick([load for load in able if rank(load) == best]).replica
