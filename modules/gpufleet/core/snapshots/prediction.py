"""How long a restore will take, whether that holds the objective, and what would hold it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from gpufleet.spec.snapshots import RestoreReport

HISTORY: Final = 10
"""Restores that a rate is measured from: the newest ones."""
_GIB: Final = 2**30
_LEAST_BYTES: Final = 64 * 2**20
"""A shorter restore tells about its start, not about a rate."""


@dataclass(frozen=True)
class Rates:
    """What was measured of one node and the store."""

    fetch_bytes_per_s: float
    """Fetched, verified and written by one node that is alone."""
    local_bytes_per_s: float
    """Copied from the tree in place, and verified."""
    object_s: float = 0.0
    """For each object, whatever its length; many are under way at once, and this is their share."""
    store_bytes_per_s: float | None = None
    """That the store gives to all nodes together; None where nobody measured it."""


@dataclass(frozen=True)
class Work:
    """What has to be done."""

    bytes_fetched: int
    """By each node."""
    bytes_local: int = 0
    objects: int = 0
    nodes: int = 1
    """That restore at the same time."""
    after_s: float = 0.0
    """What follows until service is back: loading, warming up, the first token."""
    before_s: float = 0.0
    """What has passed or comes first: detecting, deciding, provisioning."""


@dataclass(frozen=True)
class Outlook:
    """What is said before a restore begins."""

    restore_s: float
    total_s: float
    """From the failure until service is back."""
    rto_s: float
    remedies: tuple[str, ...]
    """What would hold the objective, each by itself; none where it holds."""

    @property
    def holds(self) -> bool:
        """Whether the objective is held."""
        return self.total_s <= self.rto_s


def restore_s(work: Work, rates: Rates) -> float:
    """Seconds that the restore takes: fetching and copying run one beside the other."""
    fetch_s = work.bytes_fetched / _fetch_rate(work, rates) + work.objects * rates.object_s
    return max(fetch_s, work.bytes_local / rates.local_bytes_per_s)


def outlook(work: Work, rates: Rates, *, rto_s: float, whole_bytes: int) -> Outlook:
    """Whether the objective holds, and if not, what would hold it.

    Args:
        work: of this restore.
        rates: that were measured.
        rto_s: recovery time objective of the use case.
        whole_bytes: of the artifact; more than is fetched where a part is there.
    """
    spent_s = work.before_s + work.after_s
    takes_s = restore_s(work, rates)
    total_s = spent_s + takes_s
    if total_s <= rto_s:
        return Outlook(takes_s, total_s, rto_s, ())
    found = list(_remedies(work, rates, rto_s - spent_s, whole_bytes))
    return Outlook(takes_s, total_s, rto_s, (*found, f"an objective of {_up(total_s)} s"))


def measured(reports: Iterable[RestoreReport]) -> tuple[float | None, float | None]:
    """Bytes/s fetched and copied in the newest restores (oldest first): the median of each.

    A restore counts for what most of its bytes came from. None where none says anything.
    """
    fetched: list[float] = []
    local: list[float] = []
    for report in list(reports)[-HISTORY:]:
        if report.seconds > 0 and max(report.bytes_fetched, report.bytes_local) >= _LEAST_BYTES:
            if report.bytes_fetched >= report.bytes_local:
                fetched.append(report.bytes_fetched / report.seconds)
            else:
                local.append(report.bytes_local / report.seconds)
    return (median(fetched) if fetched else None, median(local) if local else None)


def _fetch_rate(work: Work, rates: Rates) -> float:
    shared = rates.store_bytes_per_s
    if shared is None:
        return rates.fetch_bytes_per_s
    return min(rates.fetch_bytes_per_s, shared / work.nodes)


def _remedies(work: Work, rates: Rates, left_s: float, whole_bytes: int) -> Iterator[str]:
    """Each is told only if it is enough by itself."""
    objects_s = work.objects * rates.object_s
    if left_s <= 0:
        yield f"{_up(-left_s)} s less for what comes before and after the restore, and no restore"
        return
    if work.bytes_local / rates.local_bytes_per_s > left_s:
        return
    for_bytes_s = left_s - objects_s
    if for_bytes_s > 0 and work.bytes_fetched:
        yield from _faster(work, rates, work.bytes_fetched / for_bytes_s)
    if for_bytes_s > 0 and whole_bytes / rates.local_bytes_per_s <= left_s:
        fetched = for_bytes_s * _fetch_rate(work, rates) / whole_bytes
        yield f"{1 - fetched:.0%} of the artifact in the node's cache before it fails"


def _faster(work: Work, rates: Rates, needed: float) -> Iterator[str]:
    """What a rate of so many bytes/s at each node takes."""
    parts = []
    if needed > rates.fetch_bytes_per_s:
        parts.append(f"{_rate(needed)} to each node (measured: {_rate(rates.fetch_bytes_per_s)})")
    store = rates.store_bytes_per_s
    if store is not None and needed * work.nodes > store:
        parts.append(f"{_rate(needed * work.nodes)} from the store (measured: {_rate(store)})")
        at_once = int(store // needed)
        if at_once and needed <= rates.fetch_bytes_per_s:
            yield f"service from {at_once} of the {work.nodes} nodes, which restore first"
    yield " and ".join(parts)


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / _GIB:.3g} GiB/s"


def _up(seconds: float) -> int:
    return -int(-seconds // 1)
