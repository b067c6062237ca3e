"""What a stack is about: one site of one fleet file, and the provider for its cluster."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.core.shards import shards_of
from gpufleet.edges.clock import clock_of
from gpufleet.edges.stack_states import PLATFORM, Stack, StackStates
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.clusters import ProvisionedCluster
from gpufleet.spec.hardware import Cluster, EmbeddedCluster

_CLIENT: Final = {"qps": 400.0, "burst": 800}
"""The provider's own 50 requests/s would be most of a large update; the API server has its
priorities and fairness for whoever asks too much."""


@dataclass(frozen=True)
class DeclaredSite:
    """A site as the stack's configuration points to it."""

    fleet: Fleet
    path: Path
    name: str
    shard: int = 1
    """Which of the site's stacks of pools."""

    @classmethod
    def from_config(cls) -> Self:
        """Read `gpufleet:fleet` (a path, relative to the project's root), `:site` and `:shard`.

        Raises:
            BadInput: the fleet file is not valid.
        """
        config = pulumi.Config(names.PRODUCT)
        path = (PROJECT_ROOT / config.require("fleet")).resolve()
        shard = config.get_int("shard") or 1
        return cls(load_fleet(path), path, config.require("site"), shard)

    @property
    def embedded(self) -> bool:
        """Whether gpufleet runs this cluster itself."""
        return isinstance(self.cluster, EmbeddedCluster)

    @property
    def prometheus_url(self) -> str:
        """Where autoscalers ask for metrics; kept from one `up` to the next.

        Raises:
            Failed: the embedded platform was never up.
        """
        if not self.embedded:
            return "http://prometheus-operated.monitoring.svc:9090"
        return f"http://127.0.0.1:{self.state.port(self.name, 'prometheus')}"

    @property
    def state(self) -> EnvironmentDir:
        """Where the environment's state is."""
        return Workspace.here().for_fleet(self.fleet)

    @property
    def platform(self) -> str:
        """The full name of the site's platform stack."""
        stack = Stack(PLATFORM, self.fleet.slug, self.name)
        return f"organization/{names.PRODUCT}-{stack.project}/{stack.name}"

    def pools(self) -> list[PoolAtSite]:
        """The pools of this stack.

        Raises:
            Failed: a pool is in the states of two stacks.
        """
        states = StackStates(self.state)
        declared = self.fleet.pools_at(self.name)
        held = shards_of(declared, states.standing(self.fleet.slug, self.name))
        mine = held.get(self.shard, ())
        return [pool for pool in pools_at(self.fleet, self.name) if pool.name in mine]

    def now(self) -> datetime:
        """The environment's time: simulated where a drill moves it."""
        embedded = all(
            isinstance(site.cluster, EmbeddedCluster) for site in self.fleet.sites.values()
        )
        return clock_of(self.state, simulated=embedded)()

    @property
    def cluster(self) -> Cluster:
        """Where its cluster comes from."""
        return self.fleet.sites[self.name].cluster

    def management_provider(self, cluster: ProvisionedCluster) -> k8s.Provider:
        """The management cluster of a provisioned one, by its context."""
        with _no_kubeconfig_in_the_state():
            return k8s.Provider(
                names.management_provider(self.name),
                context=cluster.management_context,
                cluster_identifier=f"{self.fleet.slug}-{self.name}-management",
                enable_server_side_apply=True,
            )

    def provider(self, after: Sequence[pulumi.Resource] = ()) -> k8s.Provider:
        """The cluster by its context; the kubeconfig itself never enters the state.

        Args:
            after: resources that bring custom resource definitions. A provider reads what a
                cluster serves once, so custom resources need one that starts after them.
        """
        context = self.name if isinstance(self.cluster, EmbeddedCluster) else self.cluster.context
        with _no_kubeconfig_in_the_state():
            return k8s.Provider(
                f"{self.name}-extended" if after else self.name,
                context=context,
                cluster_identifier=f"{self.fleet.slug}-{self.name}",
                enable_server_side_apply=True,
                # Whoever reads one (the gateway's routes) sees it change, and never missing.
                enable_config_map_mutable=True,
                kube_client_settings=_CLIENT,
                opts=pulumi.ResourceOptions(depends_on=[*after]),
            )


@contextmanager
def _no_kubeconfig_in_the_state() -> Iterator[None]:
    """Let the provider's own process find the kubeconfig, as kubectl does.

    The SDK would make KUBECONFIG an input, which the state keeps: a later refresh would look for
    the file of an exemption that has ended, and a list of files would count as one file's content.
    """
    given = os.environ.pop("KUBECONFIG", None)
    try:
        yield
    finally:
        if given is not None:
            os.environ["KUBECONFIG"] = given
