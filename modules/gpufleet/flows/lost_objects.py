"""Objects that a stack's state holds and its cluster lacks: deleted behind the stack's back."""

from typing import Any

from gpufleet.core.observed import state_drift
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path
from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.flows.environment import Environment
from gpufleet.flows.stacks import stacks_of
from gpufleet.spec.reports import DriftRow


def lost_objects(
    environment: Environment, cluster: Cluster, site: str
) -> dict[Stack, list[DriftRow]]:
    """What each of a site's stacks has lost; a collection is listed once."""
    collections: dict[str, dict[str, str]] = {}
    lost: dict[Stack, list[DriftRow]] = {}
    states = StackStates(environment.state)
    for stack in stacks_of(environment.fleet, environment.state):
        if stack.site != site:
            continue
        recorded = _recorded(states.resources(stack))
        found: dict[str, str] = {}
        for collection in sorted({path.rsplit("/", 1)[0] for path in recorded}):
            if collection not in collections:
                collections[collection] = _uids(cluster, collection)
            found |= collections[collection]
        lost[stack] = state_drift(site, recorded.items(), found)
    return lost


def _recorded(resources: list[dict[str, Any]]) -> dict[str, str]:
    """UID by API path of every Kubernetes object in a state."""
    objects: dict[str, str] = {}
    for resource in resources:
        thing: dict[str, Any] = resource.get("outputs") or {}
        if uid := (thing.get("metadata") or {}).get("uid"):
            objects[object_path(thing)] = uid
    return objects


def _uids(cluster: Cluster, collection: str) -> dict[str, str]:
    return {
        f"{collection}/{thing['metadata']['name']}": thing["metadata"]["uid"]
        for thing in cluster.items(collection)
    }
