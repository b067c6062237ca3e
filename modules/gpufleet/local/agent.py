"""The node agent of an embedded site: it stands where kubelet and container runtime stand.

`python -m gpufleet.local.agent SITE_FOLDER`. It gives each pod of a pool its own loopback address
and writes the pod's status: Linux lets a process listen on all of 127.0.0.0/8, so every replica can
own an address, with the same port on each. A replica here is virtual and ready at once: nothing
listens on its address yet. All other pods go through kwok's stages.
"""

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from gpufleet.core import vocabulary as names
from gpufleet.edges import metrics
from gpufleet.edges.kube import Cluster, Object
from gpufleet.local.addresses import AddressBook
from gpufleet.local.files import read_json
from gpufleet.local.process import LOOPBACK
from gpufleet.spec.errors import FleetError, Retryable

WATCH_FOR_S: Final = 30
"""Every pod is looked at again that often: a node that came back sends no event for its pods."""
_PODS: Final = "/api/v1/pods"
_LONGEST_PAUSE_S: Final = 10.0
_NOT_READY_AFTER_S: Final = 30.0
_ENDED: Final = ("Succeeded", "Failed")


class Agent:
    """Follows the pods of all pools on one site, one at a time, and keeps their status."""

    def __init__(self, cluster: Cluster, addresses: AddressBook) -> None:
        self._cluster = cluster
        self._addresses = addresses
        self._in_touch_at = 0.0

    @property
    def in_touch(self) -> bool:
        """Whether the API server has answered lately."""
        return time.monotonic() - self._in_touch_at < _NOT_READY_AFTER_S + WATCH_FOR_S

    def run(self) -> None:
        """List, watch, and begin again, until the process is ended."""
        pause_s = 0.1
        while True:
            try:
                self.follow()
                pause_s = 0.1
            except Retryable as error:
                sys.stderr.write(f"{error.what}; again in {pause_s:.1f} s\n")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def follow(self) -> None:
        """One list and the watch that follows it.

        Raises:
            Retryable: the API server is gone.
        """
        listed = self._cluster.collection(_PODS, labels=names.POOL)
        self._in_touch_at = time.monotonic()
        pods = listed["items"]
        self._addresses.keep_only({pod["metadata"]["uid"] for pod in pods})
        for pod in pods:
            self.settle(pod)
        since = listed["metadata"]["resourceVersion"]
        for event in self._cluster.watch(_PODS, labels=names.POOL, since=since, for_s=WATCH_FOR_S):
            self._in_touch_at = time.monotonic()
            if event["type"] == "ERROR":
                return
            if event["type"] == "DELETED":
                self._addresses.release(event["object"]["metadata"]["uid"])
            else:
                self.settle(event["object"])

    def settle(self, pod: Object) -> None:
        """Bring one pod's status to what its node would report."""
        about = pod["metadata"]
        if not pod["spec"].get("nodeName"):
            return
        status = self._last_status_of(pod) if _is_leaving(pod) else self._status_of(pod)
        if status is None:
            return
        path = f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}/status"
        try:
            self._cluster.merge(path, {"status": status})
        except Retryable:
            raise
        except FleetError as error:
            # Gone or changed since: the next event brings the newer state.
            sys.stderr.write(f"{about['namespace']}/{about['name']}: {error.what}\n")

    def _status_of(self, pod: Object) -> Object | None:
        """What to write into a scheduled pod's status; None where it is right."""
        uid, status, now = pod["metadata"]["uid"], pod["status"], datetime.now(UTC)
        if status["phase"] == "Pending":
            return running_status(pod, self._addresses.address_of(uid), now)
        if status["phase"] != "Running":
            return None
        self._addresses.adopt(uid, status.get("podIP", ""))
        if _is_ready(status) or not self._is_node_ready(pod["spec"]["nodeName"]):
            return None
        # The node was lost for a while, and Kubernetes leaves the mending to the node.
        return {"conditions": _true(("ContainersReady", "Ready"), now)}

    @staticmethod
    def _last_status_of(pod: Object) -> Object | None:
        """What to write for a pod that was deleted and that somebody still holds by a finalizer.

        Kueue lets go of a replica over nodes when its pods have ended, as a kubelet tells it.
        """
        if not pod["metadata"].get("finalizers") or pod["status"]["phase"] in _ENDED:
            return None
        return ended_status(pod, datetime.now(UTC))

    def _is_node_ready(self, name: str) -> bool:
        node = self._cluster.get(f"/api/v1/nodes/{name}")
        return node is not None and _is_ready(node.get("status", {}))


def running_status(pod: Object, address: str, now: datetime) -> Object:
    """The status of a pod whose init containers ended well and whose containers serve."""
    at = _written(now)
    spec = pod["spec"]
    ended = _ended(at, at)
    return {
        "phase": "Running",
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": at,
        "conditions": _true(
            ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"), now
        ),
        "initContainerStatuses": [
            _container(container, {"ready": True, "started": False, "state": ended})
            for container in spec.get("initContainers", [])
        ],
        "containerStatuses": [
            _container(
                container, {"ready": True, "started": True, "state": {"running": {"startedAt": at}}}
            )
            for container in spec["containers"]
        ],
    }


def ended_status(pod: Object, now: datetime) -> Object:
    """The status of a pod whose containers were told to end, and did."""
    ended = _ended(pod["status"].get("startTime") or _written(now), _written(now))
    return {
        "phase": "Succeeded",
        "conditions": [
            {**condition, "status": "False"}
            for condition in _true(("ContainersReady", "Ready"), now)
        ],
        "containerStatuses": [
            _container(container, {"ready": False, "started": False, "state": ended})
            for container in pod["spec"]["containers"]
        ],
    }


def _ended(since: str, at: str) -> Object:
    return {
        "terminated": {"exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": at}
    }


def _is_leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _container(container: Object, state: Object) -> Object:
    image = container["image"]
    return {
        "name": container["name"],
        "image": image,
        "imageID": image,
        "containerID": f"simulated://{container['name']}",
        "restartCount": 0,
        **state,
    }


def _true(kinds: Iterable[str], now: datetime) -> list[Object]:
    return [{"type": kind, "status": "True", "lastTransitionTime": _written(now)} for kind in kinds]


def _is_ready(status: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions") or []
    )


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _registry(addresses: AddressBook) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    pods = Gauge("gpufleet_agent_pods", "Pods of pools that have an address", registry=registry)
    pods.set_function(lambda: addresses.in_use)
    return registry


def main(folder: Path) -> None:
    """Run the agent of a site."""
    settings = read_json(folder / "site.json")
    cluster = Cluster(folder / "agent.kubeconfig", settings["name"])
    addresses = AddressBook(folder / "addresses.json", settings["addresses"])
    agent = Agent(cluster, addresses)
    port = settings["ports"]["agent"]
    metrics.serve(LOOPBACK, port, _registry(addresses), lambda: agent.in_touch)
    agent.run()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
