"""Drills and tests on simulated replicas: who there is, and what goes wrong with them."""

from pathlib import Path

from pydantic import ValidationError

from gpufleet.edges.workspace import Workspace
from gpufleet.local.agent_client import AgentClient
from gpufleet.local.engine.faults import hit
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.simulation import Fault, FaultKind, FaultReport, SimulatedReplica


def replicas(workspace: Workspace, fleet_file: Path) -> list[SimulatedReplica]:
    """Every simulated replica of every embedded site.

    Raises:
        BadInput: the fleet file is not valid, or has no embedded site.
        Failed, Retryable: a site is not up.
    """
    fleet = load_fleet(fleet_file)
    return [each for agent in _agents(workspace, fleet) for each in agent.replicas()]


def fault(  # noqa: PLR0913 - a fault has that many parts
    workspace: Workspace,
    fleet_file: Path,
    *,
    kind: str,
    pool: str = "",
    pod: str = "",
    site: str = "",
    factor: float = 3.0,
    share: float = 1.0,
    for_s: float | None = None,
    apply: bool = False,
) -> FaultReport:
    """Let something go wrong with simulated replicas; without `apply` only tell with which.

    Raises:
        BadInput: there is no such kind, pool, site or replica.
        Failed, Retryable: a site is not up.
    """
    fleet = load_fleet(fleet_file)
    wanted = _fault(kind, pool, pod, factor, share, for_s)
    if pool and pool not in fleet.pools:
        raise BadInput("no such pool", where=pool, mend=f"there are: {', '.join(fleet.pools)}")
    agents = [each for each in _agents(workspace, fleet) if site in {"", each.site}]
    if not agents:
        embedded = ", ".join(embedded_sites(fleet))
        raise BadInput("no such embedded site", where=site, mend=f"there are: {embedded}")
    # A share is of all sites together; each agent is told the pods that are its own.
    found = hit(wanted, [each for agent in agents for each in agent.replicas()])
    if not found:
        raise BadInput("no simulated replica is hit", where=pod or pool or site or "all sites")
    if apply:
        by_site = {agent.site: agent for agent in agents}
        for each in found:
            # A share of requests goes on to each replica; one of replicas was taken here.
            one = wanted.model_copy(update={"pool": each.pool, "pod": each.pod})
            by_site[each.site].inject(one)
    return FaultReport(fault=wanted, replicas=found, applied=apply)


def clear(workspace: Workspace, fleet_file: Path, *, apply: bool = False) -> list[SimulatedReplica]:
    """End every fault; returns the replicas that have one, or could not start for one.

    Raises:
        BadInput: the fleet file is not valid, or has no embedded site.
        Failed, Retryable: a site is not up.
    """
    agents = _agents(workspace, load_fleet(fleet_file))
    faulty = [each for agent in agents for each in agent.replicas() if each.faults]
    if apply:
        for agent in agents:
            agent.clear()
    return faulty


def _agents(workspace: Workspace, fleet: Fleet) -> list[AgentClient]:
    state = workspace.for_fleet(fleet)
    sites = embedded_sites(fleet)
    if not sites:
        raise BadInput(
            "has no embedded site: faults are for simulated replicas only", where=fleet.slug
        )
    return [AgentClient(state, site) for site in sites]


def _fault(  # noqa: PLR0913, PLR0917 - as `fault`
    kind: str, pool: str, pod: str, factor: float, share: float, for_s: float | None
) -> Fault:
    if kind not in set(FaultKind):
        raise BadInput(
            "no such kind of fault", where=kind, mend=f"there are: {', '.join(FaultKind)}"
        )
    try:
        return Fault.model_validate(
            {
                "kind": kind,
                "pool": pool or None,
                "pod": pod or None,
                "factor": factor,
                "share": share,
                "for_s": for_s,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(str(first["msg"]), where=f"--{where.replace('_', '-')}") from None
