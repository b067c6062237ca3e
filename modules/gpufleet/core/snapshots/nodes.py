"""Which nodes a snapshot is restored to, and what their Job says of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gpufleet.core import vocabulary as names

Object = Mapping[str, Any]
_ENDS: Final = frozenset({"Complete", "Failed", "FailureTarget"})
"""Conditions of a Job."""


def job_to_use(snapshot: str, node_group: str, jobs: Iterable[Object]) -> str:
    """The name of the Job: of one that still runs, so that a second call goes on, or a new one.

    Args:
        snapshot: its ID.
        node_group: to whose nodes it goes.
        jobs: that are there.
    """
    # Its pods' names are longer by an index and five characters, and have 63 at most.
    base = f"restore-{node_group[:12].rstrip('-')}-{snapshot.lower()}"
    known = {
        job["metadata"]["name"]: job
        for job in jobs
        if job["metadata"]["name"].rpartition("-")[0] == base
        and job["metadata"].get("labels", {}).get(names.NODE_GROUP) == node_group
    }
    running = [name for name, job in known.items() if not has_ended(job)]
    taken = [int(name.rpartition("-")[2]) for name in known]
    return min(running, default=f"{base}-{max(taken, default=0) + 1}")


def has_ended(job: Object) -> bool:
    """Whether nothing of a Job begins any more.

    One that Kubernetes gives up fails only once its last pod is gone; that of a lost node never is.
    """
    return any(
        each["type"] in _ENDS and each["status"] == "True"
        for each in job.get("status", {}).get("conditions", [])
    )


def nodes_of(nodes: Iterable[Object]) -> tuple[Sequence[str], Mapping[str, str]]:
    """The host names of nodes that can be restored to, sorted, and why others are left out."""
    chosen, left_out = [], {}
    for node in nodes:
        about = node["metadata"]
        host = about.get("labels", {}).get(names.HOSTNAME)
        conditions = node.get("status", {}).get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        if host is None:
            left_out[about["name"]] = "it has no host name"
        elif node.get("spec", {}).get("unschedulable"):
            left_out[about["name"]] = "it is cordoned"
        elif not ready:
            left_out[about["name"]] = "it is not ready"
        else:
            chosen.append(str(host))
    return sorted(chosen), left_out


def outcome_of(job: Object, hosts: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Nodes that are done, nodes that have failed, and whether the Job has ended.

    Args:
        job: as the API server has it.
        hosts: of each index.
    """
    status = job.get("status", {})
    done = [hosts[index] for index in _indexes(status.get("completedIndexes", ""))]
    failed = [hosts[index] for index in _indexes(status.get("failedIndexes", ""))]
    return done, failed, has_ended(job)


def _indexes(text: str) -> list[int]:
    """`1,3-5,7` as Kubernetes writes completed indexes."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
