"""One environment of a fleet, with everything that acts on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gpufleet.edges.ansible_collections import ansible_collections
from gpufleet.edges.engines import FOR_STACKS, Binaries, resolve
from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.kube import Cluster
from gpufleet.edges.pulumi import PulumiCli
from gpufleet.edges.variables import variables_for
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.local.platform import Platform, embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.clusters import ProvisionedCluster
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.hardware import EmbeddedCluster
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
    gateway_python: Path | None
    """Of the embedded gateway; None where no site is embedded."""

    @classmethod
    def load(cls, workspace: Workspace, fleet_file: Path, on_progress: OnProgress) -> Self:
        """Read the fleet file, and have every engine that it needs.

        Raises:
            BadInput: the fleet file is not valid.
            Failed, Retryable: an engine cannot be had.
        """
        fleet = load_fleet(fleet_file)
        state = workspace.for_fleet(fleet)
        embedded = bool(embedded_sites(fleet))
        return cls(
            fleet,
            fleet_file,
            workspace,
            state,
            resolve(on_progress, None if embedded else FOR_STACKS),
            gateway_python(on_progress) if embedded else None,
        )

    @property
    def platform(self) -> Platform:
        """The embedded sites."""
        return Platform(self.fleet, self.state, self.binaries, self.fleet_file, self.gateway_python)

    @property
    def cli(self) -> PulumiCli:
        """Pulumi for this environment."""
        variables = _variables(self.workspace, self.fleet, self.fleet_file)
        return PulumiCli(self.workspace, self.state, self.binaries, variables)

    def cluster(self, site: str) -> Cluster:
        """The cluster of a site.

        Raises:
            Failed: it is being provisioned, or its context cannot be read.
        """
        return cluster_of(self.fleet, self.state, site)

    def management(self, site: str) -> Cluster | None:
        """The cluster that provisions a site's own; None where nothing does."""
        declared = self.fleet.sites[site].cluster
        if isinstance(declared, ProvisionedCluster):
            return Cluster(None, declared.management_context)
        return None

    @property
    def reachable(self) -> list[str]:
        """The sites whose cluster is there."""
        return [site for site in self.fleet.sites if not self.fleet.awaits_cluster(site)]


def cluster_of(fleet: Fleet, state: EnvironmentDir, site: str) -> Cluster:
    """The cluster of a fleet's site.

    Raises:
        Failed: it is being provisioned, or its context cannot be read.
    """
    declared = fleet.sites[site].cluster
    if isinstance(declared, EmbeddedCluster):
        return Cluster(state.kubeconfig, site)
    if declared.context is None:
        raise Failed(
            "the cluster is being provisioned, and cannot be reached yet",
            where=f"site {site}",
            mend="when it stands, merge its kubeconfig and name its `cluster.context`",
        )
    return Cluster(None, declared.context)


def variables_of(workspace: Workspace, fleet_file: Path) -> dict[str, str]:
    """What plain pulumi, kubectl and ansible-playbook need to see an environment.

    Raises:
        BadInput: the fleet file is not valid.
    """
    return _variables(workspace, load_fleet(fleet_file), fleet_file)


def tools_ready(on_progress: OnProgress) -> str:
    """Have what plain ansible-playbook needs beside the variables; says what is missing.

    Without a network there is no reason to keep kubectl and pulumi from whoever asks.

    Raises:
        Failed: Ansible's collections are not those of the lock.
    """
    try:
        ansible_collections(on_progress)
    except Retryable as error:
        return str(error)
    return ""


def _variables(workspace: Workspace, fleet: Fleet, fleet_file: Path) -> dict[str, str]:
    embedded = embedded_sites(fleet)
    return variables_for(
        workspace,
        workspace.for_fleet(fleet),
        fleet_file,
        embedded=bool(embedded),
        existing=len(embedded) < len(fleet.sites),
    )
