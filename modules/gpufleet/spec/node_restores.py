"""Restoring a snapshot to many nodes: what is asked for, planned and done."""

from gpufleet.spec.quantities import Spec


class NodeRestorePlan(Spec):
    """What restoring to the nodes of a group would do."""

    job: str
    """Name of the Job, one for a snapshot and a node group."""
    site: str
    bucket: str
    """Where the snapshot is, in the site's object store."""
    snapshot: str
    revision: str
    node_group: str
    nodes: list[str]
    """By their names in the cluster; index N of the Job restores to the Nth."""
    left_out: dict[str, str]
    """Nodes of the group that are not restored to, and why."""
    folder: str
    """On each node."""
    bytes_each: int
    parallelism: int
    """Nodes at once."""
    first_s: float
    """Predicted until the first nodes are done, if nothing is there."""
    all_s: float
    """Predicted until all are."""


class NodeRestoreReport(Spec):
    """What came of it."""

    job: str
    snapshot: str
    folder: str
    done: list[str]
    """Nodes that have the whole snapshot, every byte verified."""
    failed: list[str]
    """Nodes on which it failed in every try."""
    seconds: float
