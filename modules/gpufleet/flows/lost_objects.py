"""Objects that a stack's state holds and its cluster lacks: deleted behind the stack's back."""

from typing import Any, Self

from gpufleet.core.observed import state_drift
from gpufleet.core.vocabulary import management_provider
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path
from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.flows.environment import Environment
from gpufleet.flows.stacks import stacks_of
from gpufleet.spec.reports import DriftRow

Resource = dict[str, Any]


def lost_objects(environment: Environment, site: str) -> dict[Stack, list[DriftRow]]:
    """What each of a site's stacks has lost; a collection is listed once.

    Raises:
        FleetError: a cluster does not answer.
    """
    lost: dict[Stack, list[DriftRow]] = {}
    stacks = [
        stack for stack in stacks_of(environment.fleet, environment.state) if stack.site == site
    ]
    kept = StackStates(environment.state)
    states = {stack: kept.resources(stack) for stack in stacks}
    if site in environment.reachable:
        with _Listed(environment.cluster(site)) as cluster:
            for stack, resources in states.items():
                lost[stack] = cluster.lost(site, _of(resources, site, managing=False))
    if management := environment.management(site):
        with _Listed(management) as cluster:
            for stack, resources in states.items():
                rows = cluster.lost(site, _of(resources, site, managing=True))
                lost[stack] = [*lost.get(stack, []), *rows]
    return lost


class _Listed:
    """A cluster with the collections that were asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._collections: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def lost(self, site: str, resources: list[Resource]) -> list[DriftRow]:
        """Those of some resources of a state that are not there."""
        recorded = _recorded(resources)
        found: dict[str, str] = {}
        for collection in sorted({path.rsplit("/", 1)[0] for path in recorded}):
            if collection not in self._collections:
                self._collections[collection] = _uids(self._cluster, collection)
            found |= self._collections[collection]
        return state_drift(site, recorded.items(), found)


def _of(resources: list[Resource], site: str, *, managing: bool) -> list[Resource]:
    """The resources of a state that are on the management cluster, or those that are not."""
    mark = f"::{management_provider(site)}::"
    return [
        resource for resource in resources if (mark in (resource.get("provider") or "")) is managing
    ]


def _recorded(resources: list[Resource]) -> dict[str, str]:
    """UID by API path of every Kubernetes object in a state."""
    objects: dict[str, str] = {}
    for resource in resources:
        thing: Resource = resource.get("outputs") or {}
        if uid := (thing.get("metadata") or {}).get("uid"):
            objects[object_path(thing)] = uid
    return objects


def _uids(cluster: Cluster, collection: str) -> dict[str, str]:
    return {
        f"{collection}/{thing['metadata']['name']}": thing["metadata"]["uid"]
        for thing in cluster.items(collection)
    }
