"""One environment of a fleet, with everything that acts on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gpufleet.edges.engines import FOR_STACKS, Binaries, resolve
from gpufleet.edges.kube import Cluster
from gpufleet.edges.pulumi import PulumiCli
from gpufleet.edges.variables import variables_for
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.local.platform import Platform, embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.hardware import ExistingCluster
from gpufleet.spec.progress import Progress

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Environment:
    """One environment of a fleet, with everything that acts on it."""

    fleet: Fleet
    fleet_file: Path
    workspace: Workspace
    state: EnvironmentDir
    binaries: Binaries

    @classmethod
    def load(cls, workspace: Workspace, fleet_file: Path, on_progress: OnProgress) -> Self:
        """Read the fleet file, and have every engine that it needs.

        Raises:
            BadInput: the fleet file is not valid.
            Failed, Retryable: an engine cannot be had.
        """
        fleet = load_fleet(fleet_file)
        state = workspace.for_fleet(fleet)
        engines = None if embedded_sites(fleet) else FOR_STACKS
        return cls(fleet, fleet_file, workspace, state, resolve(on_progress, engines))

    @property
    def platform(self) -> Platform:
        """The embedded sites."""
        return Platform(self.fleet, self.state, self.binaries, self.fleet_file)

    @property
    def cli(self) -> PulumiCli:
        """Pulumi for this environment."""
        variables = _variables(self.workspace, self.fleet)
        return PulumiCli(self.workspace, self.state, self.binaries, variables)

    def cluster(self, site: str) -> Cluster:
        """The cluster of a site."""
        declared = self.fleet.sites[site].cluster
        if isinstance(declared, ExistingCluster):
            return Cluster(None, declared.context)
        return Cluster(self.state.kubeconfig, site)


def variables_of(workspace: Workspace, fleet_file: Path) -> dict[str, str]:
    """What plain pulumi, kubectl and ansible-playbook need to see an environment.

    Raises:
        BadInput: the fleet file is not valid.
    """
    return _variables(workspace, load_fleet(fleet_file))


def _variables(workspace: Workspace, fleet: Fleet) -> dict[str, str]:
    embedded = embedded_sites(fleet)
    return variables_for(
        workspace,
        workspace.for_fleet(fleet),
        embedded=bool(embedded),
        existing=len(embedded) < len(fleet.sites),
    )
