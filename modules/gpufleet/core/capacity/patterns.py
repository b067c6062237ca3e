"""Ways to stand: for one option of a pool, which node groups, and how many replicas on each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

_FEWER_GPUS: Final = 1e-6
"""Cost of a GPU-hour beside its price: between ways of one price, the one with fewer GPUs."""
_LATER_OPTION: Final = 1e-3
"""Options come nearest first: between equals the earlier one."""


@dataclass(frozen=True)
class Option:
    """One way to serve a pool, and how many replicas it takes."""

    gpu_type: str
    gpus_per_node: int
    nodes_per_replica: int
    concurrency_limit: int
    steady: int
    """Replicas that always run."""
    most: int
    """Replicas at the declared peak."""
    after_loss: int
    """Replicas that have to be left when a site is lost."""
    spares: int
    """Places of replicas that have to be free for failed GPUs."""

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica over all its nodes."""
        return self.gpus_per_node * self.nodes_per_replica


@dataclass(frozen=True)
class Ground:
    """A node group that pools may stand on."""

    site: str
    gpu_type: str
    nodes: int
    gpus_per_node: int
    hourly_cost: float
    """Of one GPU."""

    def fits(self, option: Option) -> int:
        """Replicas that it holds."""
        slots = self.nodes * (self.gpus_per_node // option.gpus_per_node)
        return slots // option.nodes_per_replica


@dataclass(frozen=True)
class Stand:
    """Replicas on one node group."""

    replicas: int
    most: int


@dataclass(frozen=True)
class Demand:
    """What one pool may take."""

    options: tuple[Option, ...]
    """Nearest to what is declared first."""
    grounds: tuple[str, ...]
    """Node groups that it may stand on."""
    keeps_site_loss: bool
    """Whether the other sites have to hold what a site's loss needs."""
    autoscaled: bool
    """Whether replicas may start and stop; else all always run."""
    current: Mapping[str, Stand] = field(default_factory=dict)
    """What is declared, by node group."""


@dataclass(frozen=True)
class Pattern:
    """A pool's whole way to stand; lower is better, in the order of `levels`."""

    option: int
    """Index of its option."""
    stands: Mapping[str, Stand]
    lacking: int
    """Replicas that find no place."""
    site_loss_short: int
    """Replicas that are short after the worst loss of a site."""
    spares_short: int
    """Places for failed GPUs that are short."""
    lacking_gpus: int
    hourly_cost: float
    gpus: int
    away: int
    """Replicas that change, against what is declared."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Nothing lacks; no loss and no failure breaks a promise; cost, then GPUs; nearness."""
        return (
            self.lacking_gpus,
            self.site_loss_short + self.spares_short,
            self.hourly_cost + _FEWER_GPUS * self.gpus,
            self.away + _LATER_OPTION * self.option,
        )


def patterns(
    demand: Demand, grounds: Mapping[str, Ground], *, most_cost: float = math.inf
) -> Iterator[Pattern]:
    """The best way to stand for each option and each set of node groups, one of a site at most.

    Where no set holds an option's peak, the ways that hold a part of it, and none at all.

    Args:
        demand: of the pool.
        grounds: by node group.
        most_cost: options whose peak costs more in an hour, wherever it stands, are left out.
    """
    for index, option in enumerate(demand.options):
        if _least_cost(option, demand, grounds) > most_cost:
            continue
        by_site: dict[str, list[str | None]] = {}
        for name in demand.grounds:
            if grounds[name].gpu_type == option.gpu_type and grounds[name].fits(option):
                by_site.setdefault(grounds[name].site, [None]).append(name)
        for chosen in product(*by_site.values()):
            names = [name for name in chosen if name is not None]
            yield _pattern(demand, index, names, grounds)


def _least_cost(option: Option, demand: Demand, grounds: Mapping[str, Ground]) -> float:
    """Of its replicas at the peak, all on the cheapest node group of its type, for an hour."""
    prices = [
        grounds[name].hourly_cost
        for name in demand.grounds
        if grounds[name].gpu_type == option.gpu_type
    ]
    return option.most * option.gpus_per_replica * min(prices, default=0.0)


def _pattern(
    demand: Demand, index: int, names: Sequence[str], grounds: Mapping[str, Ground]
) -> Pattern:
    option = demand.options[index]
    fits = {name: grounds[name].fits(option) for name in names}
    room = sum(fits.values())
    needed = min(option.most, room)
    loss = option.after_loss if demand.keeps_site_loss else 0
    # Without its largest site, no more than the others hold is ever left.
    reached = min(loss, room - max(fits.values(), default=0))
    total = max(needed, len(names))
    while sum(min(fit, total - reached) for fit in fits.values()) < total:
        total += 1
    # A site that holds more than this leaves too few when it is lost.
    most = {name: min(fit, total - reached) for name, fit in fits.items()}
    ceilings = _cheapest(total, most, demand, grounds)
    always = _always(demand, option, ceilings)
    stands = {name: always[name] for name in names}
    left = total - max(ceilings.values(), default=0)
    unit = option.gpus_per_replica
    return Pattern(
        option=index,
        stands=stands,
        lacking=option.most - needed,
        lacking_gpus=(option.most - needed) * unit,
        site_loss_short=max(0, loss - left),
        spares_short=max(0, option.spares - (room - total)),
        hourly_cost=unit
        * sum(stand.most * grounds[name].hourly_cost for name, stand in stands.items()),
        gpus=total * unit,
        away=_away(demand, stands),
    )


def _cheapest(
    total: int, most: Mapping[str, int], demand: Demand, grounds: Mapping[str, Ground]
) -> dict[str, int]:
    """A total spread over node groups, one on each at least, the cheapest filled first.

    Those of one price share what falls on them as near as can be to what is declared.
    """
    prices = sorted({grounds[name].hourly_cost for name in most})
    found: dict[str, int] = {}
    left = total
    for price in prices:
        names = [name for name in most if grounds[name].hourly_cost == price]
        later = sum(grounds[name].hourly_cost > price for name in most)
        here = min(sum(most[name] for name in names), left - later)
        wanted = {name: demand.current.get(name, Stand(0, 0)).most for name in names}
        found |= nearest(here, wanted, {name: most[name] for name in names})
        left -= here
    return found


def _always(demand: Demand, option: Option, ceilings: Mapping[str, int]) -> dict[str, Stand]:
    if not demand.autoscaled:
        return {name: Stand(most, most) for name, most in ceilings.items()}
    steady = min(max(option.steady, len(ceilings)), sum(ceilings.values()))
    wanted = {name: demand.current.get(name, Stand(0, 0)).replicas for name in ceilings}
    always = nearest(steady, wanted, ceilings)
    return {name: Stand(always[name], most) for name, most in ceilings.items()}


def nearest(total: int, wanted: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers of a sum, each from 1 to its most, with the least distance to what is wanted.

    Each step of one costs one wherever it is taken, so the largest give and the emptiest take.
    """
    found = {name: min(max(wanted[name], 1), most[name]) for name in wanted}
    while (missing := total - sum(found.values())) > 0:
        name = max((n for n in found if found[n] < most[n]), key=lambda n: most[n] - found[n])
        found[name] += min(missing, 1)
    while sum(found.values()) > total:
        name = max((n for n in found if found[n] > 1), key=lambda n: found[n])
        found[name] -= 1
    return found


def _away(demand: Demand, stands: Mapping[str, Stand]) -> int:
    none = Stand(0, 0)
    return sum(
        abs(stands.get(name, none).replicas - demand.current.get(name, none).replicas)
        + abs(stands.get(name, none).most - demand.current.get(name, none).most)
        for name in dict.fromkeys((*stands, *demand.current))
    )
