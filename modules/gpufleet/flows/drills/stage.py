"""The stage of a drill: set up at sites, failed, and struck again so that nothing of it is left."""

import shutil
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.claims import CLAIMS_PATH, allocated
from gpufleet.core.drills.failover import free_gpus
from gpufleet.core.drills.production import longest_grace_s, with_places
from gpufleet.core.drills.stage import DRILL, NAMESPACE, PRIORITY_CLASS, stage_fleet
from gpufleet.core.observed import is_ready
from gpufleet.core.quotas import claims_gpus
from gpufleet.edges.database_copy import kind_of
from gpufleet.edges.database_spare import drop_spare
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path, object_path
from gpufleet.flows.access import revoke
from gpufleet.flows.drills import objects
from gpufleet.flows.drills.attempts import in_spite_of_errors
from gpufleet.flows.drills.drill_store import DrillStore
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.stores import places_of
from gpufleet.local.agent_client import AgentClient
from gpufleet.local.engine.settings import write_engines
from gpufleet.local.gpu_board import write_gpus
from gpufleet.local.platform import embedded_sites
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import DRILL_PREFIX
from gpufleet.spec.errors import Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.protection import DatabaseKind
from gpufleet.spec.simulation import Fault, FaultKind

_NAMESPACE_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}"
NODES_PATH: Final = "/api/v1/nodes"
_PODS_PATH: Final = f"{_NAMESPACE_PATH}/pods"
_PRIORITY_PATH: Final = f"/apis/scheduling.k8s.io/v1/priorityclasses/{PRIORITY_CLASS}"
_GONE_WITHIN_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.5
_DOWN_FOR_S: Final = 86_400.0
"""A process that was killed stays away longer than any drill; its pod goes with the stage."""


@dataclass(frozen=True)
class Stage:
    """The stand-ins of one drill.

    Args:
        ground: of the environment.
        flow: of the drill.
        scenario: that it plays.
        for_real: whether what comes up has production's names, and answers for it.
    """

    ground: Ground
    flow: str
    scenario: str
    for_real: bool = False

    @property
    def folder(self) -> Path:
        """Files of this drill alone."""
        return self.ground.state.root / "drills" / self.flow

    def set_up(
        self, stage: Fleet, site: str, *, started: bool, where: objects.Where = objects.ANYWHERE
    ) -> None:
        """Make what a site holds of a stage, or bring it to that.

        Args:
            stage: the fleet of the drill's stand-ins.
            site: of it.
            started: whether replicas start; otherwise their workloads stand, and have none.
            where: they may run.

        Raises:
            Retryable: the site does not answer, or is still busy removing another stage.
        """
        self.announce(site)
        with self._entered(site) as cluster:
            self._tell_engines(stage, site)
            for each in objects.contents(
                stage, site, self.flow, started=started, where=where, for_real=self.for_real
            ):
                cluster.apply(object_path(each), each)

    def announce(self, site: str) -> None:
        """Make the namespace, by which everybody sees that there is a drill, and whose.

        Raises:
            Retryable: as `set_up`.
        """
        with self._entered(site) as cluster:
            for path in (_NAMESPACE_PATH, _PRIORITY_PATH):
                there = cluster.get(path)
                if there and (_is_going(there) or _flow_of(there) != self.flow):
                    what = "the stage of another drill is still there"
                    raise Retryable(what, where=f"site {site}")
            for each in objects.namespace(self.flow, self.scenario, for_real=self.for_real):
                cluster.apply(object_path(each), each)

    def clear(self, site: str) -> None:
        """Remove what runs the replicas of a stage at a site; they go after it.

        Raises:
            Retryable: the site does not answer.
        """
        with self._entered(site) as cluster:
            for version, kind in objects.WORKLOADS:
                path = collection_path(version, kind, NAMESPACE)
                for each in cluster.items(path, labels=f"{DRILL}={self.flow}"):
                    cluster.delete(f"{path}/{each['metadata']['name']}")

    def is_empty(self, site: str) -> bool:
        """Whether no pod of the stage is left at a site.

        Raises:
            Retryable: the site does not answer.
        """
        return not self.nodes(site)

    def nodes(self, site: str) -> list[str]:
        """The node of each pod of the stage at a site; empty for one without a node.

        Raises:
            Retryable: the site does not answer.
        """
        with self._entered(site) as cluster:
            return [str(pod["spec"].get("nodeName", "")) for pod in self._pods(cluster)]

    def pods(self, site: str) -> list[dict[str, Any]]:
        """Every pod of the stage at a site, as the cluster shows it.

        Raises:
            Retryable: the site does not answer.
        """
        with self._entered(site) as cluster:
            return self._pods(cluster)

    def ready_pools(self, site: str) -> dict[str, int]:
        """Replicas that are ready, by the name of their pool's stand-in.

        Raises:
            Retryable: the site does not answer.
        """
        with self._entered(site) as cluster:
            found: dict[str, int] = {}
            for pod in cluster.items(_PODS_PATH, labels=f"{names.POOL},{DRILL}={self.flow}"):
                leads = pod["metadata"]["labels"].get(names.WORKER_INDEX, "0") == "0"
                if leads and is_ready(pod) and not _is_going(pod):
                    pool = pod["metadata"]["labels"][names.POOL]
                    found[pool] = found.get(pool, 0) + 1
            return found

    def fail(self, site: str, kind: FaultKind) -> set[str]:
        """Let every replica of the stage at a site end, and stay away; returns whose pools' did.

        Args:
            site: of the stage.
            kind: of its end.

        Raises:
            Retryable: the node agent does not answer.
        """
        agent = AgentClient(self.ground.state, site)
        faults = [
            Fault(kind=kind, pool=each.pool, pod=each.pod, for_s=_DOWN_FOR_S)
            for each in agent.replicas()
            if each.namespace == NAMESPACE
        ]
        return {hit.pool for fault in faults for hit in agent.inject(fault)}

    def stands(self, sites: Iterable[str]) -> bool:
        """Whether something of it is at one of some sites.

        Raises:
            Retryable: one of them does not answer, and nothing is at those before it.
        """
        for site in sites:
            with self._entered(site) as cluster:
                for path in (_NAMESPACE_PATH, _PRIORITY_PATH):
                    there = cluster.get(path)
                    if there and _flow_of(there) == self.flow:
                        return True
        return False

    def strike_at(self, sites: Iterable[str]) -> None:
        """Remove what of it is at some sites; one that does not answer keeps no other.

        Raises:
            FleetError: of the first that does not answer, or whose namespace does not go.
        """
        in_spite_of_errors(*(partial(self._strike, site) for site in sites))

    def strike(self) -> None:
        """Remove everything of this drill at every site; finds what an earlier try has removed.

        What does not answer keeps nothing else from being removed.

        Raises:
            FleetError: of the first that does not answer, or whose namespace does not go.
        """
        keys = self.ground.drills.report(self.flow).keys
        stores = [
            DrillStore(self.ground, site, self.flow, self.folder) for site in places_of(self.ground)
        ]
        in_spite_of_errors(
            *(partial(revoke, self.ground, key) for key in keys),
            *(partial(self._strike, site) for site in embedded_sites(self.ground.fleet)),
            *(store.empty for store in stores),
            self._drop_database,
            self._remove_folder,
        )

    def _pods(self, cluster: Cluster) -> list[dict[str, Any]]:
        return cluster.items(_PODS_PATH, labels=f"{DRILL}={self.flow}")

    def _drop_database(self) -> None:
        has_one = self.scenario == ScenarioName.DATABASE_LOST.value
        if has_one and kind_of(self.ground.database) is DatabaseKind.POSTGRESQL:
            drop_spare(self.ground.database, self.flow)

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            # It may hold a copy of the database.
            raise Retryable("cannot be removed", where=str(self.folder))

    def _strike(self, site: str) -> None:
        with self._entered(site) as cluster:
            self._clear(cluster, site)
            for node in own_nodes(cluster, self.flow):
                cluster.delete(f"{NODES_PATH}/{node}")

    def _clear(self, cluster: Cluster, site: str) -> None:
        standing = cluster.get(_NAMESPACE_PATH)
        if standing is not None and _flow_of(standing) == self.flow:
            cluster.delete(_NAMESPACE_PATH)
            until = time.monotonic() + _GONE_WITHIN_S + self._drain_s()
            while cluster.get(_NAMESPACE_PATH) is not None:
                self._let_go(cluster)
                if time.monotonic() > until:
                    raise Retryable("does not go", where=f"namespace {NAMESPACE} at {site}")
                time.sleep(_LOOK_EVERY_S)
        priority = cluster.get(_PRIORITY_PATH)
        if priority is not None and _flow_of(priority) == self.flow:
            # No other drill sets its stage up before this one's priority is gone.
            self._tell_engines(stage_fleet(self.ground.fleet, []), site)
            cluster.delete(_PRIORITY_PATH)

    def _let_go(self, cluster: Cluster) -> None:
        """Remove pods that a lost node of the drill's own will never let go."""
        nodes = own_nodes(cluster, self.flow)
        for pod in self._pods(cluster) if nodes else []:
            if pod["spec"].get("nodeName") in nodes:
                cluster.delete(f"{_PODS_PATH}/{pod['metadata']['name']}", at_once=True)

    def _tell_engines(self, stage: Fleet, site: str) -> None:
        """Let simulated replicas of the stage be as fast, and load as long, as declared ones."""
        # The capacity model's libraries take a while to import.
        from gpufleet.local.engine_specs import engine_specs  # noqa: PLC0415

        folder = self.ground.state.site(site)
        # For real pools have production's names: those that are declared are told with them.
        told = with_places(self.ground.fleet, stage) if self.for_real else stage
        only = "" if self.for_real else DRILL_PREFIX
        write_engines(folder, engine_specs(told, site), only=only)
        write_gpus(folder, told, site, only=only)

    def _drain_s(self) -> float:
        """How long its replicas may take to end what users have asked, s."""
        return longest_grace_s(self.ground.fleet) if self.for_real else 0.0

    def _entered(self, site: str) -> closing[Cluster]:
        return entered(self.ground, site)


def entered(ground: Ground, site: str) -> closing[Cluster]:
    """A site's cluster, which is closed at the end of a block."""
    return closing(cluster_of(ground.fleet, ground.state, site))


def own_nodes(cluster: Cluster, flow: str) -> list[str]:
    """The nodes that a drill has made in a cluster.

    Raises:
        FleetError: the cluster does not answer.
    """
    found = cluster.items(NODES_PATH, labels=f"{DRILL}={flow}")
    return [str(node["metadata"]["name"]) for node in found]


def free_at(
    ground: Ground, sites: Iterable[str], *, without: Collection[str] = ()
) -> dict[str, list[int]]:
    """Free GPUs of each usable node of sites, by node group; none of a stage counts as used.

    Args:
        ground: the environment.
        sites: of it.
        without: nodes that may not be used.

    Raises:
        Retryable: a site does not answer.
    """
    found: dict[str, list[int]] = {}
    for site in sites:
        with entered(ground, site) as cluster:
            held = cluster.items(CLAIMS_PATH) if claims_gpus(ground.fleet, site) else []
            pods = [
                pod
                for pod in cluster.items("/api/v1/pods")
                if pod["metadata"]["namespace"] != NAMESPACE
            ]
            nodes = cluster.items(NODES_PATH)
            found |= free_gpus(ground.fleet, site, nodes, pods, allocated(held), without)
    return found


def running_drill(cluster: Cluster) -> str:
    """The drill whose stage stands in a cluster; empty where none does.

    Raises:
        FleetError: the cluster does not answer.
    """
    standing = cluster.get(_NAMESPACE_PATH)
    return _flow_of(standing) if standing else ""


def wait_until(look: Callable[[], bool], within_s: float, every_s: float = _LOOK_EVERY_S) -> bool:
    """Look again and again; whether it came to be in time. What may pass by itself is no end."""
    until = time.monotonic() + within_s
    while True:
        with suppress(Retryable):
            if look():
                return True
        if time.monotonic() > until:
            return False
        time.sleep(every_s)


def staged(ground: Ground, stage: Fleet) -> Ground:
    """The same environment with the fleet of a stage: keys and questions are for its names."""
    return replace(ground, fleet=stage)


def _flow_of(thing: dict[str, Any]) -> str:
    return str((thing["metadata"].get("labels") or {}).get(DRILL, ""))


def _is_going(thing: dict[str, Any]) -> bool:
    return bool(thing["metadata"].get("deletionTimestamp"))
