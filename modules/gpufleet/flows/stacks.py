"""The stacks of a fleet: the platform of each site, and its pools in one stack or several."""

import hashlib
import json
from typing import Any

from gpufleet.core.approvals import digest_of
from gpufleet.core.cluster_worker import worker_site
from gpufleet.core.gateway.routes import routes_text
from gpufleet.core.shards import shards_of
from gpufleet.edges.code_version import code_version
from gpufleet.edges.declared_files import read_declared
from gpufleet.edges.price_file import price_table
from gpufleet.edges.stack_states import PLATFORM, POOLS, Stack, StackStates
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.flows.environment import Environment
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.fleet import Fleet


def stacks_of(fleet: Fleet, state: EnvironmentDir) -> list[Stack]:
    """Every stack of a fleet, in the order in which they can be made.

    A site whose cluster is being provisioned has no pools yet.

    Raises:
        Failed: a pool is in the states of two stacks.
    """
    platforms = [Stack(PLATFORM, fleet.slug, site) for site in fleet.sites]
    pools = [
        Stack(POOLS, fleet.slug, site, shard)
        for site in fleet.sites
        if not fleet.awaits_cluster(site)
        for shard in _shards(fleet, state, site)
    ]
    return [*platforms, *pools]


def inputs_of(environment: Environment, stack: Stack) -> str:
    """A digest of everything that a stack's program reads, and what runs it.

    For a stack of pools that is the fleet file without the pools of others, and what the platform
    stack tells it; so that a changed pool leaves the other stacks as they are.
    """
    fleet, told = environment.fleet, _read_by_platform(environment, stack.site)
    if stack.project == POOLS:
        held = _shards(fleet, environment.state, stack.site)[stack.shard]
        fleet = fleet.model_copy(update={"pools": {name: fleet.pools[name] for name in held}})
        platform = Stack(PLATFORM, stack.fleet, stack.site)
        resources = StackStates(environment.state).resources(platform)
        told = {"platform": resources[0].get("outputs", {}) if resources else {}}
        if stack.shard == 1:
            # The first one also tells the gateway of all pools.
            prices = price_table(environment.fleet, environment.fleet_file)
            told["routes"] = routes_text(environment.fleet, prices)
    binaries = environment.binaries
    parts = [
        digest_of(fleet),
        told,
        code_version(),
        str(binaries.path("pulumi-resource-kubernetes")),
        str(binaries.files),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_by_platform(environment: Environment, site: str) -> dict[str, Any]:
    """What a platform stack reads beside the fleet file."""
    fleet = environment.fleet
    if site in embedded_sites(fleet):
        return {"prometheus": environment.state.port(site, "prometheus")}
    if worker_site(fleet) == site:
        return dict(read_declared(fleet, environment.fleet_file))
    return {}


def _shards(fleet: Fleet, state: EnvironmentDir, site: str) -> dict[int, tuple[str, ...]]:
    return shards_of(fleet.pools_at(site), StackStates(state).standing(fleet.slug, site))
