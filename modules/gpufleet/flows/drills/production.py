"""What a drill for real takes from production at a site, and gives back; each call finds the last.

Everything taken carries the drill's mark in its cluster, beside what is kept of it in the database.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.drills.production import (
    GOES_FIRST,
    PAUSED,
    TAKEN_BY,
    mark_of,
    told_back,
)
from gpufleet.core.freeze import Purpose
from gpufleet.core.patching.nodes import CORDONED_BY
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.drills.attempts import in_spite_of_errors
from gpufleet.flows.drills.hits import SCALER, VERSIONS, Hits
from gpufleet.flows.drills.stage import entered
from gpufleet.flows.ground import Ground
from gpufleet.flows.windows import decision_at
from gpufleet.local.agent_client import AgentClient
from gpufleet.spec.drills import Cordoned, Scaled
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.simulation import STAYS_DOWN, Fault, FaultKind, SimulatedReplica

MANAGER: Final = "gpufleet-drill"
"""Owns the fields that a drill changes, for as long as it does."""
_AWAY_S: Final = 600.0
"""A process that was killed stays away so long by itself; its pod is taken away meanwhile."""
_TRIES: Final = 10
_AGAIN: Final = "ask anew: ./fleet dr.drill --for-real --apply"
_CHEAP: Final = "-1000000"


@dataclass(frozen=True)
class Production:
    """Production at one site, as one drill touches it.

    Args:
        ground: the environment.
        flow: of the drill.
        site: of the fleet.
    """

    ground: Ground
    flow: str
    site: str

    def end_replicas(self, pools: Collection[str], kind: FaultKind, pod: str = "") -> set[str]:
        """Let replicas of production end at once; returns whose pools' did.

        Args:
            pools: of the site.
            kind: of their end.
            pod: only this one.

        Raises:
            Retryable: the node agent does not answer.
        """
        agent = AgentClient(self.ground.state, self.site)
        faults = [
            Fault(kind=kind, pool=each.pool, pod=each.pod, for_s=_AWAY_S)
            for each in _of_production(agent)
            if each.pool in pools and pod in {"", each.pod}
        ]
        return {hit.pool for fault in faults for hit in agent.inject(fault)}

    def pools_there(self, lost: Cordoned | None = None) -> set[str]:
        """The pools of which a replica is there; only that one, where one alone is to be lost.

        Raises:
            Retryable: the node agent does not answer.
        """
        found = _of_production(AgentClient(self.ground.state, self.site))
        return {each.pool for each in found if lost is None or each.pod == lost.pod}

    def kept_down(self, pools: Collection[str]) -> list[SimulatedReplica]:
        """Replicas of production whose process ended, and does not start yet.

        Raises:
            Retryable: the node agent does not answer.
        """
        found = _of_production(AgentClient(self.ground.state, self.site))
        return [each for each in found if each.pool in pools and STAYS_DOWN in each.faults]

    def let_start(self, pools: Collection[str]) -> None:
        """Let what ended come up at once: other pods in the place of those that stay down.

        Raises:
            Retryable: the site does not answer.
        """
        down = self.kept_down(pools)
        with entered(self.ground, self.site) as cluster:
            for each in down:
                cluster.delete(f"{collection_path('v1', 'Pod', each.namespace)}/{each.pod}")

    def scale_away(self, taken: Scaled) -> None:
        """Make a workload smaller, and keep every controller from making it larger.

        Raises:
            Failed: another drill has taken it: what it was before only that one knows.
            Retryable: the site does not answer.
        """
        marked = {TAKEN_BY: mark_of(self.flow)}
        with entered(self.ground, self.site) as cluster:
            self._demand_free(cluster, taken)
            if taken.autoscaled:
                paused = {**marked, PAUSED: str(taken.left)}
                _annotate(cluster, _scaler_path(taken), paused)
            for pod in taken.pods:
                path = f"{collection_path('v1', 'Pod', taken.namespace)}/{pod}"
                if cluster.get(path):
                    _annotate(cluster, path, {GOES_FIRST: _CHEAP})
            body = {"metadata": {"annotations": marked}, "spec": {"replicas": taken.left}}
            cluster.set_fields(_workload_path(taken), body, MANAGER)

    def _demand_free(self, cluster: Cluster, taken: Scaled) -> None:
        for path in _paths(taken):
            found = (cluster.get(path) or {}).get("metadata", {})
            by = (found.get("annotations") or {}).get(TAKEN_BY, mark_of(self.flow))
            if by != mark_of(self.flow):
                raise Failed(
                    f"{by} has taken it, and has not given it back",
                    where=f"pool {taken.pool} at {taken.site}",
                    mend="wait until it is given back: ./fleet status",
                )

    def give_back(self, taken: Scaled) -> None:
        """Tell a workload its earlier number again, once; it is its stack's and KEDA's as before.

        Raises:
            Retryable: the site does not answer.
        """
        in_spite_of_errors(partial(self._let_stay, taken), partial(self._tell_back, taken))

    def _let_stay(self, taken: Scaled) -> None:
        """None of the pods that are left goes before others any more."""
        with entered(self.ground, self.site) as cluster:
            for name in taken.pods:
                path = f"{collection_path('v1', 'Pod', taken.namespace)}/{name}"
                pod = cluster.get(path)
                annotations = (pod or {}).get("metadata", {}).get("annotations") or {}
                if annotations.get(GOES_FIRST) == _CHEAP:
                    _annotate(cluster, path, {GOES_FIRST: None})

    def _tell_back(self, taken: Scaled) -> None:
        with self._back() as cluster:
            if taken.autoscaled:
                self._unpause(cluster, taken)
            path = _workload_path(taken)
            workload = cluster.get(path)
            told = told_back(taken, workload, self.flow) if workload else None
            if told is not None:
                cluster.set_fields(path, {"spec": {"replicas": told}}, MANAGER)
                _let_go(cluster, path)

    def _unpause(self, cluster: Cluster, taken: Scaled) -> None:
        path = _scaler_path(taken)
        scaler = cluster.get(path)
        annotations = (scaler or {}).get("metadata", {}).get("annotations") or {}
        if annotations.get(TAKEN_BY) == mark_of(self.flow):
            _annotate(cluster, path, {PAUSED: taken.paused})
            _let_go(cluster, path)

    def is_told(self, taken: Scaled) -> bool:
        """Whether a workload is not this drill's any more.

        Raises:
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            found = [cluster.get(path) for path in _paths(taken)]
        mark = mark_of(self.flow)
        return not any(
            (each["metadata"].get("annotations") or {}).get(TAKEN_BY) == mark
            for each in found
            if each
        )

    def is_ready(self, taken: Scaled) -> bool:
        """Whether as many replicas of a workload are ready as before, or as it is told to have.

        Raises:
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            workload = cluster.get(_workload_path(taken))
        if workload is None:
            return True
        wanted = int(workload["spec"].get("replicas", 1))
        if taken.ready is not None:
            # Those that were not ready before are nothing that the drill has taken.
            wanted = min(wanted, taken.ready)
        return int(workload.get("status", {}).get("readyReplicas", 0)) >= wanted

    def is_made_again(self, lost: Cordoned) -> bool:
        """Whether as many replicas of a lost one's pool are ready as before it was.

        Raises:
            Retryable: the site does not answer.
        """
        hits = Hits(self.ground, self.site)
        return len(hits.ready_of(lost)) >= min(lost.before, hits.wanted_of(lost))

    def cordon(self, lost: Cordoned) -> bool:
        """Let nothing new begin on a node; whether it is us who have cordoned it.

        Raises:
            Failed: it is gone.
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            node = cluster.get(_node_path(lost))
            if node is None:
                raise Failed("is gone", where=f"node {lost.node} at {self.site}", mend=_AGAIN)
            if node.get("spec", {}).get("unschedulable"):
                return self._is_ours(node)
            body = {
                "metadata": {
                    "resourceVersion": node["metadata"]["resourceVersion"],
                    "annotations": {CORDONED_BY: mark_of(self.flow)},
                },
                "spec": {"unschedulable": True},
            }
            cluster.set_fields(_node_path(lost), body, MANAGER)
            return True

    def uncordon(self, lost: Cordoned) -> None:
        """Let a node take work again, if it is us who have cordoned it.

        Raises:
            Retryable: the site does not answer; or somebody else has written to it.
        """
        with entered(self.ground, self.site) as cluster:
            node = cluster.get(_node_path(lost))
            if node and self._is_ours(node):
                # Whoever has uncordoned it meanwhile may cordon it for himself now.
                seen = {"resourceVersion": node["metadata"]["resourceVersion"]}
                about = {**seen, "annotations": {CORDONED_BY: None}}
                body = {"metadata": about, "spec": {"unschedulable": None}}
                cluster.set_fields(_node_path(lost), body, MANAGER)

    def is_cordoned(self, lost: Cordoned) -> bool:
        """Whether a node carries the mark of this drill, also where somebody has uncordoned it.

        Raises:
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            node = cluster.get(_node_path(lost))
        return node is not None and self._is_ours(node)

    def remove(self, lost: Cordoned) -> None:
        """Take the pod of a lost replica away, and no later one of its name.

        Its workload makes it again elsewhere.

        Raises:
            Retryable: the site does not answer.
        """
        with entered(self.ground, self.site) as cluster:
            path = f"{collection_path('v1', 'Pod', lost.namespace)}/{lost.pod}"
            pod = cluster.get(path)
            if pod and pod["metadata"]["uid"] == lost.uid:
                cluster.delete(path)

    def _is_ours(self, node: Mapping[str, Any]) -> bool:
        annotations = node["metadata"].get("annotations") or {}
        return bool(annotations.get(CORDONED_BY) == mark_of(self.flow))

    @contextmanager
    def _back(self) -> Iterator[Cluster]:
        """The cluster, in which something is given back: also in a freeze that has begun since.

        Raises:
            FleetError: the cluster or the database does not answer.
        """
        ground = self.ground
        now = ground.clock()
        frozen = decision_at(
            ground.fleet, ground.fleet_file, self.site, now, purpose=Purpose.ROLLBACK
        )
        with entered(ground, self.site) as cluster:
            account = (
                f"{collection_path('v1', 'ServiceAccount', names.SYSTEM_NAMESPACE)}/{names.EXEMPT}"
            )
            if not frozen.exempt or cluster.get(account) is None:
                yield cluster
                return
            ground.note(
                "freeze.exempted",
                actor=self.flow,
                target=self.site,
                purpose=Purpose.ROLLBACK.value,
                freeze=frozen.reason,
            )
            exempt = cluster.as_service_account(names.SYSTEM_NAMESPACE, names.EXEMPT)
            try:
                yield exempt
            finally:
                exempt.close()


def _of_production(agent: AgentClient) -> list[SimulatedReplica]:
    """The interactive replicas of production that a node agent runs."""
    return [each for each in agent.replicas() if each.namespace == names.INTERACTIVE_NAMESPACE]


def _workload_path(taken: Scaled) -> str:
    path = collection_path(VERSIONS[taken.kind], taken.kind, taken.namespace)
    return f"{path}/{taken.pool}"


def _scaler_path(taken: Scaled) -> str:
    return f"{collection_path(*SCALER, taken.namespace)}/{taken.pool}"


def _paths(taken: Scaled) -> list[str]:
    """What carries the mark of a drill that has taken a workload."""
    return [_workload_path(taken), *([_scaler_path(taken)] if taken.autoscaled else [])]


def _node_path(lost: Cordoned) -> str:
    return f"/api/v1/nodes/{lost.node}"


def _annotate(cluster: Cluster, path: str, annotations: Mapping[str, str | None]) -> None:
    cluster.set_fields(path, {"metadata": {"annotations": dict(annotations)}}, MANAGER)


def _let_go(cluster: Cluster, path: str) -> None:
    """Take the mark away, and own no field any more: whoever applies it next finds it as before.

    Both at once and last: until then whoever looks finds that there is something to do.

    Raises:
        Retryable: somebody else writes to it again and again.
    """
    for tries_left in reversed(range(_TRIES)):
        found = cluster.get(path)
        if found is None:
            return
        owners = found["metadata"].get("managedFields") or []
        about = {
            "resourceVersion": found["metadata"]["resourceVersion"],
            "managedFields": [each for each in owners if each.get("manager") != MANAGER],
            "annotations": {TAKEN_BY: None},
        }
        try:
            cluster.set_fields(path, {"metadata": about}, MANAGER)
        except Retryable:
            if not tries_left:
                raise
        else:
            return
