"""Restoring a snapshot straight into the caches of a group's nodes, by an Indexed Job."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gpufleet.components.restore_job import (
    GATE,
    INDEX,
    NODES,
    RestoreWork,
    opened,
    restore_job,
)
from gpufleet.core import vocabulary as names
from gpufleet.core.snapshots.fan_out import Links, parallelism, predicted_s
from gpufleet.core.snapshots.nodes import job_to_use, nodes_of, outcome_of
from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.core.weights import StoreAccess, snapshots_bucket, source_of, store_access
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.snapshots.requests import measured_rate, store_of
from gpufleet.flows.snapshots.store import manifest_of
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput, Failed, PolicyRefused
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import AddressingStyle
from gpufleet.spec.node_restores import NodeRestorePlan, NodeRestoreReport
from gpufleet.spec.snapshots import Manifest

JOBS: Final = collection_path("batch/v1", "Job", names.CACHE_NAMESPACE)
"""Where they are made."""
_PODS: Final = collection_path("v1", "Pod", names.CACHE_NAMESPACE)
_NODES: Final = collection_path("v1", "Node", None)
_LOOK_EVERY_S: Final = 1.0
_RESTORED: Final = "snapshot.restored_to_nodes"


@dataclass(frozen=True)
class NodeOrder:
    """What is restored, to which nodes, and what is known of the ways to them."""

    snapshot: str
    node_group: str
    node_bytes_per_s: float | None = None
    """None for what earlier restores of the environment came to."""
    store_bytes_per_s: float | None = None
    network_bytes_per_s: float | None = None
    bucket: str = ""
    """Of the snapshot; empty for the environment's own."""


def plan(ground: Ground, order: NodeOrder) -> NodeRestorePlan:
    """What it would do.

    Raises:
        BadInput: no such snapshot or node group, no node that can be restored to, or no rate.
        PolicyRefused: a pool there serves another content of the revision.
        Retryable: the cluster or the store does not answer.
    """
    group = ground.fleet.node_groups.get(order.node_group)
    if group is None:
        known = ", ".join(f"`{name}`" for name in ground.fleet.node_groups)
        raise BadInput("no such node group", where=order.node_group, mend=f"there are: {known}")
    manifest = manifest_of(store_of(ground, group.site, bucket=order.bucket), order.snapshot)
    _refuse_other_content(ground.fleet, order, manifest)
    cluster = cluster_of(ground.fleet, ground.state, group.site)
    try:
        selected = f"{names.NODE_GROUP}={order.node_group}"
        listed = cluster.items(_NODES, labels=selected)
        job = job_to_use(order.snapshot, order.node_group, cluster.items(JOBS, labels=selected))
    finally:
        cluster.close()
    nodes, left_out = nodes_of(listed)
    if not nodes:
        why = "; ".join(f"{node}: {reason}" for node, reason in left_out.items()) or "it has none"
        raise BadInput("no node can be restored to", where=order.node_group, mend=why)
    links = _links(ground, order)
    first_s, all_s = predicted_s(manifest.plain_bytes, len(nodes), links)
    return NodeRestorePlan(
        job=job,
        site=group.site,
        bucket=order.bucket or snapshots_bucket(ground.fleet),
        snapshot=order.snapshot,
        revision=manifest.revision,
        node_group=order.node_group,
        nodes=list(nodes),
        left_out=dict(left_out),
        folder=f"{names.CACHE_FOLDER}/{manifest.revision}",
        bytes_each=manifest.plain_bytes,
        parallelism=parallelism(len(nodes), links),
        first_s=first_s,
        all_s=all_s,
    )


def restore_to_nodes(
    ground: Ground, order: NodeOrder, told: Callable[[int, int], None]
) -> NodeRestoreReport:
    """Restore, and wait until every node has it or has failed; one that was begun goes on.

    Args:
        ground: the environment.
        order: what.
        told: how many nodes are done, and of how many.

    Raises:
        BadInput: as `plan`.
        PolicyRefused: as `plan`.
        Failed: the Job was removed meanwhile, or the cluster refuses it.
        Retryable: the cluster or the store does not answer; the same call goes on.
    """
    planned, begun = plan(ground, order), time.monotonic()
    cluster = cluster_of(ground.fleet, ground.state, planned.site)
    try:
        begin(ground, cluster, planned)
        done, failed = _awaited(cluster, planned.job, told)
    finally:
        cluster.close()
    report = NodeRestoreReport(
        job=planned.job,
        snapshot=planned.snapshot,
        folder=planned.folder,
        done=done,
        failed=failed,
        seconds=time.monotonic() - begun,
    )
    facts = report.model_dump(exclude={"snapshot"})
    ground.note(_RESTORED, actor=whoami(), target=planned.snapshot, **facts)
    return report


def begin(
    ground: Ground,
    cluster: Cluster,
    planned: NodeRestorePlan,
    marks: Mapping[str, str] | None = None,
    ends_within_s: int | None = None,
) -> None:
    """Make the Job, or leave its marks on one that is there.

    Args:
        ground: the environment.
        cluster: of the plan's site.
        planned: what.
        marks: annotations.
        ends_within_s: as `restore_job`.

    Raises:
        Failed: the cluster refuses it.
        Retryable: the cluster does not answer.
    """
    work = RestoreWork(
        job=planned.job,
        fleet=ground.fleet.slug,
        image=ground.fleet.images.gpufleet,
        snapshot=planned.snapshot,
        revision=planned.revision,
        node_group=planned.node_group,
        nodes=len(planned.nodes),
        parallelism=planned.parallelism,
        bucket=planned.bucket,
        store=_access(ground, planned.site),
        encrypted=ground.fleet.snapshot_keys.encryption_key is not None,
    )
    job = restore_job(work, json.dumps(planned.nodes), marks, ends_within_s)
    if not cluster.create(JOBS, job) and marks:
        cluster.merge_existing(f"{JOBS}/{planned.job}", {"metadata": {"annotations": {**marks}}})


def _refuse_other_content(fleet: Fleet, order: NodeOrder, manifest: Manifest) -> None:
    """Engines that read the cache would load it at their next start, under the old digest."""
    digest = revision_digest(manifest)
    for name, pool in fleet.pools.items():
        model = fleet.models[pool.model]
        is_there = order.node_group in pool.placements
        is_named = source_of(fleet, pool.model).revision == manifest.revision
        if is_there and is_named and model.digest != digest:
            raise PolicyRefused(
                f"pool {name} serves {manifest.revision} there with the digest {model.digest}",
                where=f"{order.snapshot}, which has {digest}",
                mend="take another content under another name, or declare its digest first",
            )


def _access(ground: Ground, site: str) -> StoreAccess:
    """How pods reach the site's store: as declared, or the embedded one."""
    declared = store_access(ground.fleet, site)
    if declared is not None:
        return declared
    place = places_of(ground)[site]
    return StoreAccess(place.endpoint, place.region, AddressingStyle.PATH, own_authority=False)


def _awaited(
    cluster: Cluster, job: str, told: Callable[[int, int], None]
) -> tuple[list[str], list[str]]:
    while True:
        found = cluster.get(f"{JOBS}/{job}")
        if found is None:
            raise Failed("the Job was removed", where=job, mend="the same command begins it again")
        hosts = hosts_of(found)
        open_gates(cluster, job, hosts)
        done, failed, ended = outcome_of(found, hosts)
        told(len(done), len(hosts))
        if ended:
            return done, failed
        time.sleep(_LOOK_EVERY_S)


def hosts_of(job: Object) -> list[str]:
    """The host name of each index of a Job."""
    return list(json.loads(job["metadata"]["annotations"][NODES]))


def open_gates(cluster: Cluster, job: str, hosts: list[str]) -> int:
    """Send each pod that waits to the node of its index; returns how many were sent."""
    waiting = [
        pod
        for pod in cluster.items(_PODS, labels=f"batch.kubernetes.io/job-name={job}")
        if any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates", []))
    ]
    for pod in waiting:
        host = hosts[int(pod["metadata"]["annotations"][INDEX])]
        cluster.merge_existing(f"{_PODS}/{pod['metadata']['name']}", opened(host))
    return len(waiting)


def _links(ground: Ground, order: NodeOrder) -> Links:
    node = order.node_bytes_per_s or measured_rate(ground)
    if not node:
        raise BadInput(
            "nobody knows how fast one node restores",
            where="--node-rate",
            mend="give it, such as 2GB; later ones go by what was measured",
        )
    return Links(node, order.store_bytes_per_s, order.network_bytes_per_s)
