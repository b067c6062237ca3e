"""How an environment is: pools, processes, and where fleet file, state and cluster differ."""

from pathlib import Path

from gpufleet.core.claims import SLICES_PATH
from gpufleet.core.inventory import expand_site
from gpufleet.core.observed import node_drift, pool_rows, workload_drift
from gpufleet.core.quotas import claims_gpus
from gpufleet.core.vocabulary import MANAGED
from gpufleet.edges.kube_paths import collection_path
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.drills.hits import hits_production
from gpufleet.flows.drills.stage import running_drill
from gpufleet.flows.environment import Environment
from gpufleet.flows.lost_objects import lost_objects
from gpufleet.flows.pool_view import observed_pools
from gpufleet.local.platform import embedded_sites, observe
from gpufleet.spec.errors import FleetError
from gpufleet.spec.load import outdated
from gpufleet.spec.reports import DriftRow, PoolRow, ProcessRow, StatusReport

_WORKLOADS = (("apps/v1", "Deployment"), ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"))


def status(workspace: Workspace, fleet_file: Path) -> StatusReport:
    """Observe everything, and change nothing.

    A cluster that does not answer is a drift row of its site, not an error: the rest is still told.

    Raises:
        BadInput: the fleet file is not valid.
        Failed, Retryable: an engine cannot be had.
    """
    environment = Environment.load(workspace, fleet_file, lambda _: None)
    pools: list[PoolRow] = []
    drift: list[DriftRow] = []
    drills: dict[str, bool] = {}
    for site in environment.fleet.sites:
        try:
            rows, differences = _site(environment, site, drills)
        except FleetError as error:
            rows, differences = pool_rows(environment.fleet, site, []), [_down(site, error.what)]
        pools += rows
        drift += differences
    return StatusReport(
        fleet=environment.fleet.fleet,
        environment=environment.fleet.environment,
        pools=pools,
        processes=_processes(environment),
        drift=drift,
        warnings=[
            *([told] if (told := outdated(fleet_file)) else []),
            *(_drill_told(flow, for_real=for_real) for flow, for_real in drills.items()),
        ],
    )


def _drill_told(flow: str, *, for_real: bool) -> str:
    if for_real:
        return f"drill {flow} hits production, as others have approved: ./fleet dr.report"
    return f"drill {flow} is under way: what is named drill-* is its"


def _down(site: str, why: str) -> DriftRow:
    between = "fleet and cluster"
    return DriftRow(site=site, between=between, what="cluster", declared="reachable", actual=why)


def _site(
    environment: Environment, site: str, drills: dict[str, bool]
) -> tuple[list[PoolRow], list[DriftRow]]:
    """Pools and drift of a site; a drill whose stage stands there is added to `drills`."""
    fleet = environment.fleet
    lost = [row for rows in lost_objects(environment, site).values() for row in rows]
    if fleet.awaits_cluster(site):
        return pool_rows(fleet, site, []), [_down(site, "being provisioned"), *lost]
    cluster = environment.cluster(site)
    pools = observed_pools(fleet, site, cluster)
    nodes = cluster.items("/api/v1/nodes")
    slices = cluster.items(SLICES_PATH) if claims_gpus(fleet, site) else []
    workloads = [
        workload
        for api_version, kind in _WORKLOADS
        for workload in cluster.items(collection_path(api_version, kind, None), labels=MANAGED)
    ]
    drift = [
        *node_drift(expand_site(fleet, site), nodes, site, slices),
        *workload_drift(fleet, site, workloads),
        *lost,
    ]
    if flow := running_drill(cluster):
        drills[flow] = hits_production(cluster)
    cluster.close()
    return pools, drift


def _processes(environment: Environment) -> list[ProcessRow]:
    """The embedded processes; one row that says so where none runs."""
    if not embedded_sites(environment.fleet):
        return []
    rows = [ProcessRow(**vars(state)) for state in observe(environment.state)]
    return rows or [
        ProcessRow(
            site=site, process="platform", state="not running", ready=False, pid=0, restarts=0
        )
        for site in embedded_sites(environment.fleet)
    ]
