"""Marks of patches and drills on nodes: whose, and those that a person's kubectl has left."""

from collections.abc import Collection
from typing import Final

from gpufleet.core.patching import nodes
from gpufleet.core.patching.nodes import CORDONED_BY, CORDONED_WITH, is_stale
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.patching import HostState

_GIVEN_BACK: Final = frozenset({HostState.DONE, HostState.UNCHANGED, HostState.ROLLED_BACK})


def has_left(ground: Ground, flow: str, host: str) -> bool:
    """Whether a patch is known here, and has left a host's node cordoned.

    One that has given the node back, or that nobody knows, cannot have cordoned it: a person has,
    after he had uncordoned it with the mark still on it.

    Raises:
        Retryable: the database does not answer.
    """
    try:
        report = ground.patches.report(flow)
    except BadInput:
        # A playbook by hand has no report; it writes into the journal that it begins.
        return ground.journal.tells_of(flow)
    found = report.hosts.get(host)
    return report.ended_at is None or found is None or found.state not in _GIVEN_BACK


def cordoned_by_others(ground: Ground, sites: Collection[str]) -> dict[str, str]:
    """Nodes of some sites that somebody else has cordoned, each with whose cordon it is.

    Raises:
        Retryable: a cluster does not answer.
    """
    found: dict[str, str] = {}
    for site in sorted(sites):
        cluster = cluster_of(ground.fleet, ground.state, site)
        try:
            for node in cluster.items("/api/v1/nodes"):
                if why := nodes.cordoned_by_others(node):
                    found[str(node["metadata"]["name"])] = why
        finally:
            cluster.close()
    return found


def clear_stale_marks(ground: Ground) -> list[str]:
    """Take marks away from nodes that were uncordoned past their patch or drill, as by kubectl.

    Returns:
        The nodes whose mark was taken away.

    Raises:
        FleetError: a cluster does not answer; the others are looked at.
    """
    cleared: list[str] = []
    failures: list[FleetError] = []
    for site in ground.fleet.sites:
        if ground.fleet.awaits_cluster(site):
            continue
        try:
            cleared += _clear(ground, site)
        except FleetError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return cleared


def _clear(ground: Ground, site: str) -> list[str]:
    cluster = cluster_of(ground.fleet, ground.state, site)
    try:
        stale = [node["metadata"] for node in cluster.items("/api/v1/nodes") if is_stale(node)]
        for metadata in stale:
            # Refused where somebody has written to the node since: it is looked at again.
            seen = {"resourceVersion": metadata["resourceVersion"]}
            marks = {"annotations": {CORDONED_BY: None, CORDONED_WITH: None}}
            cluster.merge(f"/api/v1/nodes/{metadata['name']}", {"metadata": {**seen, **marks}})
    finally:
        cluster.close()
    return [str(metadata["name"]) for metadata in stale]
