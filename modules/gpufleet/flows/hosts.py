"""The hosts of an environment for Ansible: from its fleet file, its database and its clusters."""

from pathlib import Path

from gpufleet.core.patching.hosts import Inventory, inventory_of
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.hardware import EmbeddedCluster


def read_inventory(workspace: Workspace, fleet_file: Path) -> Inventory:
    """The inventory of an environment; an environment that was never up has no database yet.

    Args:
        workspace: the clone.
        fleet_file: of the environment.

    Raises:
        BadInput: the fleet file is not valid.
        Retryable: the database does not answer.
    """
    fleet = load_fleet(fleet_file)
    state = workspace.for_fleet(fleet)
    return inventory_of(
        fleet,
        fleet_file.parent,
        clusters={site: _cluster(fleet, state, site) for site in fleet.sites},
        states=_states(workspace, fleet_file, state),
    )


def _states(workspace: Workspace, fleet_file: Path, state: EnvironmentDir) -> dict[str, str]:
    if not state.root.is_dir():
        return {}
    ground = Ground.open(workspace, fleet_file)
    try:
        return ground.hosts.states()
    finally:
        ground.close()


def _cluster(fleet: Fleet, state: EnvironmentDir, site: str) -> dict[str, str]:
    """Kubeconfig and context of a site's cluster; the caller's own kubeconfig is not named."""
    declared = fleet.sites[site].cluster
    if isinstance(declared, EmbeddedCluster):
        return {"config": str(state.kubeconfig), "context": site}
    return {"context": declared.context} if declared.context else {}
