"""A node that is not heard of any more: its object stays, and so does the pod that ran there."""

import json
import time
from typing import Any, Final

from gpufleet.core.claims import SLICES_PATH, resource_slice
from gpufleet.core.drills.failover import stand_ins
from gpufleet.core.drills.own_node import own_node
from gpufleet.core.drills.stage import DRILL
from gpufleet.core.inventory import Node
from gpufleet.core.observed import is_ready
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.script import Common
from gpufleet.flows.drills.stage import NODES_PATH, entered, free_at, wait_until
from gpufleet.local.nodes import create_node, stop_heartbeat
from gpufleet.spec.drills import Placed
from gpufleet.spec.errors import Failed, Retryable

_READY_WITHIN_S: Final = 60.0
_UNREACHABLE: Final = "node.kubernetes.io/unreachable"
_UNREACHABLE_WITHIN_S: Final = 180.0
"""The node controller waits 50 s for a heartbeat, and looks every 5 s."""
_GIVEN_UP_WITHIN_S: Final = 360.0
"""No pool tolerates a lost node for more than 300 s."""
_LOOK_EVERY_S: Final = 0.5


class NodeLost(Common):
    """The stand-in runs on a node of the drill's own, whose heartbeat stops."""

    def prepare(self) -> None:
        """Make the node, and wait until it is ready."""
        node = self._node
        path = f"{NODES_PATH}/{node.name}"
        with entered(self.ground, self._site) as cluster:
            create_node(cluster, node)
            found = cluster.get(path)
            if found is None or found["metadata"]["labels"].get(DRILL) != self.stage.flow:
                raise Retryable("the node of another drill is still there", where=node.name)
            if node.claimed:
                offered = resource_slice(node, found["metadata"]["uid"])
                cluster.apply(f"{SLICES_PATH}/{offered['metadata']['name']}", offered)
            if not wait_until(lambda: is_ready(cluster.get(path) or {}), _READY_WITHIN_S):
                raise Retryable("the node of the drill does not get ready", where=node.name)

    def where(self, fact: str) -> Where:
        """On that node alone; once it is lost on any other."""
        gpus = sum(each.gpus for each in self.plan.lost)
        name = self._node.name
        return Where(avoid=name, gpus_beside=gpus) if fact else Where(name, gpus_beside=gpus)

    def fail(self) -> str:
        """Nobody hears of the node any more; which pods were there."""
        name = self._node.name
        pods = self.stage.pods(self._site)
        if {pod["spec"].get("nodeName") for pod in pods} != {name}:
            raise Retryable("no stand-in runs on the node of the drill yet", where=f"node {name}")
        with entered(self.ground, self._site) as cluster:
            stop_heartbeat(cluster, name, self.stage.flow)
        return json.dumps(sorted(pod["metadata"]["uid"] for pod in pods))

    def decide(self, fact: str) -> list[Placed]:
        """Another node of its group or a spare one, once the cluster calls this one unreachable.

        Raises:
            Failed: it does not.
        """
        del fact
        name = self._node.name
        with entered(self.ground, self._site) as cluster:

            def unreachable() -> bool:
                node = cluster.get(f"{NODES_PATH}/{name}") or {}
                return not is_ready(node) and {"NoSchedule", "NoExecute"} <= _effects(node)

            if not wait_until(unreachable, _UNREACHABLE_WITHIN_S):
                what = f"its node was heard of {_UNREACHABLE_WITHIN_S:.0f} s after it was lost"
                raise Failed(what, where=f"node {name}")
        pool, _, site = self.plan.target.partition("@")
        free = free_at(self.ground, [site])
        return [each for each in stand_ins(self.ground.fleet, site, free) if each.pool == pool]

    def make_room(self, fact: str) -> str:
        """Wait until the cluster gives the pod up by itself; the old one stays where it was.

        Raises:
            Failed: it does not, or something new is scheduled on the lost node.
        """
        before, begun = set(json.loads(fact)), time.monotonic()
        name = self._node.name

        def given_up() -> bool:
            pods = self.stage.pods(self._site)
            old = [pod for pod in pods if pod["metadata"]["uid"] in before]
            waits = any(not pod["spec"].get("nodeName") for pod in pods)
            return waits and all(pod["metadata"].get("deletionTimestamp") for pod in old)

        if not wait_until(given_up, _GIVEN_UP_WITHIN_S, _LOOK_EVERY_S):
            raise Failed("the cluster does not give its pod up", where=f"node {name}")
        pods = self.stage.pods(self._site)
        on_it = {p["metadata"]["uid"] for p in pods if p["spec"].get("nodeName") == name}
        if on_it - before:
            raise Failed("something was scheduled on the lost node", where=f"node {name}")
        stay = f"{len(on_it)} of {len(before)} lost pods are still there"
        waited_s = time.monotonic() - begun
        return f"given up after {waited_s:.0f} s, {stay}; nothing is scheduled on {name}"

    @property
    def _site(self) -> str:
        return self.plan.target.partition("@")[2]

    @property
    def _node(self) -> Node:
        return own_node(self.ground.fleet, self.plan.lost[0].node_group, self.stage.flow)


def _effects(node: dict[str, Any]) -> set[str]:
    """What a node's being unreachable does to pods."""
    taints = node.get("spec", {}).get("taints") or []
    return {taint["effect"] for taint in taints if taint["key"] == _UNREACHABLE}
