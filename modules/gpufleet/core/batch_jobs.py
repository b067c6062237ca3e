"""Where a batch's Job stands: which pool, which site, how many pods; and how far it is.

A batch fills what batch pools leave idle. It waits in the queue of its use case's batch pool, on
that pool's node group, below every replica of a pool: Kueue gives it quota that is free, and takes
it back when a replica asks for it. What was answered until then is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.batches import BatchState, IdleGpus
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import ServingClass, UseCase

Object = Mapping[str, Any]
EXIT_TOLD_TO_END: Final = 143
"""Of a pod's client that SIGTERM has ended, as shells write it: no failure of its shard."""
SHORTEST_WINDOW_S: Final = 600.0
LONGEST_WINDOW_S: Final = 14 * 86_400.0
KEPT_S: Final = 7 * 86_400.0
"""How long files are kept where the retention of their data class does not say."""
LONGEST_KEPT_S: Final = 30 * 86_400.0
"""Longest that files are kept: they are a hand-over, not an archive."""


def bucket_of(fleet: Fleet) -> str:
    """The bucket of an environment's batches, in each site's object store."""
    return f"{fleet.slug}-batch"


def file_key(file: str) -> str:
    """Key of a caller's file."""
    return f"files/{file}.jsonl"


def shards_prefix(batch: str) -> str:
    """Below it are the shards of a batch, with what was answered of them."""
    return f"jobs/{batch}/"


@dataclass(frozen=True)
class ShardKeys:
    """The objects of one shard."""

    batch: str
    index: int

    @property
    def requests(self) -> str:
        """What is asked."""
        return f"{shards_prefix(self.batch)}in/{self.index:05d}.jsonl"

    @property
    def answers(self) -> str:
        """Every answer; there only when there is one for each request."""
        return f"{shards_prefix(self.batch)}out/{self.index:05d}.jsonl"

    @property
    def partial(self) -> str:
        """The answers so far, which whoever takes over goes on from."""
        return f"{shards_prefix(self.batch)}part/{self.index:05d}.jsonl"


def batch_use_case(fleet: Fleet, name: str) -> UseCase:
    """A use case whose requests may wait.

    Raises:
        BadInput: there is no such use case.
        PolicyRefused: a person waits for its answers.
    """
    use_case = fleet.use_cases.get(name)
    if use_case is None:
        known = ", ".join(batch_use_cases(fleet)) or "none of class batch"
        raise BadInput("there is no such use case", where=name, mend=f"there are: {known}")
    if use_case.class_ is not ServingClass.BATCH:
        raise PolicyRefused(
            "is interactive, and batches never run in interactive pools",
            where=f"use case {name}",
            mend=f"use cases of class batch: {', '.join(batch_use_cases(fleet)) or 'none'}",
        )
    return use_case


def batch_use_cases(fleet: Fleet) -> list[str]:
    """Those of class batch."""
    return [name for name, each in fleet.use_cases.items() if each.class_ is ServingClass.BATCH]


def homes(fleet: Fleet, use_case: str) -> dict[str, PoolAtSite]:
    """Where a use case's batches may run, by site: its batch pool within its residency.

    Raises:
        BadInput, PolicyRefused: as `batch_use_case`; no pool serves it; or a replica of its pool
            spans nodes, which no pod of a Job can.
    """
    residency = set(batch_use_case(fleet, use_case).residency)
    found = {
        site: pool
        for site, declared in fleet.sites.items()
        if declared.region in residency
        for pool in pools_at(fleet, site)
        if use_case in pool.use_cases and pool.class_ is ServingClass.BATCH
    }
    if not found:
        what = "no batch pool serves it in its residency"
        raise PolicyRefused(what, where=f"use case {use_case}")
    single = {site: pool for site, pool in found.items() if not pool.spans_nodes}
    if not single:
        pool = next(iter(found.values()))
        raise PolicyRefused(
            "a replica of its pool spans nodes, which a batch's pods cannot",
            where=f"use case {use_case}, pool {pool.name}",
            mend="send its requests to the gateway: the pool itself answers them",
        )
    return single


def storing_sites(fleet: Fleet, use_cases: Sequence[str]) -> list[str]:
    """Sites whose store may hold a file before its use case is known: within every residency."""
    residencies = [set(fleet.use_cases[name].residency) for name in use_cases]
    return [
        name
        for name, site in fleet.sites.items()
        if all(site.region in residency for residency in residencies)
    ]


def demand_window(fleet: Fleet, use_case: str, window_s: float) -> None:
    """Refuse a window in which prompts would be kept for longer than their retention allows.

    Raises:
        BadInput: names both.
    """
    most_s = kept_s(fleet, [use_case])
    if window_s > most_s:
        data_class = fleet.use_cases[use_case].data_class
        raise BadInput(
            f"a window of {window_s / 3600:g} h is longer than the {most_s / 3600:g} h for which "
            f"content of data class {data_class} is kept",
            where=f"use case {use_case}",
            mend=f"a window of at most {most_s / 3600:g} h",
        )


def kept_s(fleet: Fleet, use_cases: Sequence[str]) -> float:
    """How long files are kept, s: as the strictest data class among these allows."""
    allowed = []
    for name in use_cases:
        retention = fleet.retention.get(fleet.use_cases[name].data_class)
        content_s = retention.content_s if retention else None
        allowed.append(KEPT_S if content_s is None else min(content_s, LONGEST_KEPT_S))
    return min(allowed, default=KEPT_S)


def idle_gpus(cluster_queue: Object | None, flavor: str) -> int:
    """GPUs of a flavor's quota that no workload has reserved; 0 where there is no such queue."""
    if cluster_queue is None:
        return 0
    nominal = sum(
        int(resource["nominalQuota"])
        for group in cluster_queue["spec"]["resourceGroups"]
        for each in group["flavors"]
        if each["name"] == flavor
        for resource in each["resources"]
        if resource["name"] == names.GPU_RESOURCE
    )
    reserved = sum(
        int(resource.get("total", 0))
        for each in cluster_queue.get("status", {}).get("flavorsReservation") or []
        if each["name"] == flavor
        for resource in each["resources"]
        if resource["name"] == names.GPU_RESOURCE
    )
    return max(0, nominal - reserved)


def ranked(sites: Sequence[IdleGpus]) -> list[IdleGpus]:
    """Best first: those that answer, with the most idle GPUs; the fleet file's order decides."""
    return sorted(sites, key=lambda each: (not each.reached, -each.gpus))


def parallelism(shards: int, pool: PoolAtSite) -> int:
    """Most pods at once: as many as the node group holds; Kueue gives fewer where it must."""
    return max(1, min(shards, pool.room))


@dataclass(frozen=True)
class JobView:
    """What a Job shows of itself."""

    ended: bool
    done: frozenset[int]
    """Shards that are answered."""
    told: str
    """For people who follow it."""

    @classmethod
    def of(cls, job: Object, shards: int) -> "JobView":
        """What a Job's status says."""
        status = job.get("status") or {}
        ended = any(
            condition["type"] in {"Complete", "Failed"} and condition["status"] == "True"
            for condition in status.get("conditions") or []
        )
        done = indexes(status.get("completedIndexes", ""))
        counts = f"{len(done)} of {shards} shards answered"
        if job["spec"].get("suspend"):
            told = f"waits for idle GPUs; {counts}"
        else:
            told = f"{status.get('active', 0)} pods at work; {counts}"
        return cls(ended, done, told)


def indexes(written: str) -> frozenset[int]:
    """Kubernetes' compressed list of a Job's indexes, such as `0-2,5`."""
    found: set[int] = set()
    for part in filter(None, written.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def outcome_of(view: JobView | None, *, cancelled: bool, expired: bool) -> BatchState | None:
    """How a batch ends; None while it goes on. What has ended by itself was not cut short."""
    if view is not None and view.ended:
        return BatchState.COMPLETED
    if cancelled:
        return BatchState.CANCELLED
    return BatchState.EXPIRED if expired else None
