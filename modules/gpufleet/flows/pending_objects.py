"""What a killed update was about to make: taken into its stack's state, or forgotten."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from gpufleet.core.pending import pending_creations, settled
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path
from gpufleet.edges.stack_states import StackStates
from gpufleet.flows.environment import Environment
from gpufleet.flows.stacks import stacks_of

_RELEASE: Final = "kubernetes:helm.sh/v3:Release"


def settle_pending(environment: Environment, site: str) -> None:
    """Leave no creation pending in the states of a site's stacks.

    Raises:
        Retryable: an update is under way; or the cluster does not answer.
    """
    cluster, states = environment.cluster(site), StackStates(environment.state)
    for stack in stacks_of(environment.fleet, environment.state):
        content = states.read(stack) if stack.site == site else None
        if content is None or b'"pending_operations"' not in content:
            continue
        state: dict[str, Any] = json.loads(content)
        latest = state["checkpoint"].get("latest") or {}
        if pending := pending_creations(latest):
            _forget_releases(cluster, pending)
            found = {each["urn"]: _object(cluster, each.get("inputs") or {}) for each in pending}
            there = {urn: thing for urn, thing in found.items() if thing}
            state["checkpoint"]["latest"] = settled(latest, there)
            states.replace(stack, json.dumps(state).encode(), datetime.now(UTC))
    cluster.close()


def _forget_releases(cluster: Cluster, pending: list[dict[str, Any]]) -> None:
    """Let Helm install once more what it was installing, over what stands of it.

    Its own record of a release that was cut short refuses the name for ever; the objects stay, and
    carry the release's name, by which the new one takes them over.
    """
    for each in pending:
        inputs = each.get("inputs") or {}
        if each["type"] == _RELEASE and {"name", "namespace"} <= inputs.keys():
            folder = f"/api/v1/namespaces/{inputs['namespace']}/secrets"
            for record in cluster.items(folder, labels=f"owner=helm,name={inputs['name']}"):
                cluster.delete(f"{folder}/{record['metadata']['name']}")


def _object(cluster: Cluster, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The object that inputs declare; None where they declare none, or it does not stand."""
    if "apiVersion" not in inputs or "name" not in (inputs.get("metadata") or {}):
        return None
    return cluster.get(object_path(inputs))
