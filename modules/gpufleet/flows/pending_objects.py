"""What a killed update was about to make: taken into its stack's state, or forgotten."""

import json
from datetime import UTC, datetime
from typing import Any

from gpufleet.core.pending import pending_creations, settled
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path
from gpufleet.edges.stack_states import StackStates
from gpufleet.flows.environment import Environment
from gpufleet.flows.stacks import stacks_of


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
            found = {each["urn"]: _object(cluster, each.get("inputs") or {}) for each in pending}
            there = {urn: thing for urn, thing in found.items() if thing}
            state["checkpoint"]["latest"] = settled(latest, there)
            states.replace(stack, json.dumps(state).encode(), datetime.now(UTC))
    cluster.close()


def _object(cluster: Cluster, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The object that inputs declare; None where they declare none, or it does not stand."""
    if "apiVersion" not in inputs or "name" not in (inputs.get("metadata") or {}):
        return None
    return cluster.get(object_path(inputs))
