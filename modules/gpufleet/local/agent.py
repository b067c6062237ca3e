"""The node agent of an embedded site: it stands where kubelet and container runtime stand.

`python -m gpufleet.local.agent SITE_FOLDER`. It gives each pod of a pool its own loopback address,
runs the pod's simulated replica there, and writes the pod's status: Linux lets a process listen on
all of 127.0.0.0/8, so every replica can own an address, with the same port on each. A pod is ready
when its engine has produced a token. All other pods go through kwok's stages.

Three kinds of threads: one follows the pods, one runs all engines, and a few write statuses. None
asks the API server for a single pod.
"""

import argparse
import asyncio
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gpufleet.core.serving import ENGINE_PORT
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.object_client import Place
from gpufleet.local.addresses import AddressBook
from gpufleet.local.agent_api import AgentApi
from gpufleet.local.agent_metrics import AgentMetrics
from gpufleet.local.engine.batch_run import BatchRuns, finished_status, stopped_status
from gpufleet.local.engine.host import Host, Start
from gpufleet.local.engine.replica import Identity, Phase, View
from gpufleet.local.engine.series import METRIC_NAMES, TODAY
from gpufleet.local.engine.settings import EngineFile
from gpufleet.local.files import read_json
from gpufleet.local.gpu_board import GpuBoard
from gpufleet.local.pod_status import (
    ENDED,
    begun_status,
    ended_status,
    is_ready,
    lost_life,
    restarts_of,
    same_life,
    says_the_same,
    serving_status,
)
from gpufleet.local.pool_pod import PoolPod
from gpufleet.local.process import LOOPBACK
from gpufleet.local.work_queue import WorkQueue
from gpufleet.spec.errors import FleetError, Retryable

WATCH_FOR_S: Final = 30
"""Every pod is looked at again that often: a node that came back sends no event for its pods."""
_PODS: Final = "/api/v1/pods"
_WRITERS: Final = 4
_WRITE_AGAIN_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_NOT_READY_AFTER_S: Final = 30.0


@dataclass
class _Known:
    """One pod, as the agent saw it last."""

    pod: PoolPod
    address: str
    runs: bool = False
    """Whether an engine was started for it."""
    view: View | None = None
    """What its engine is like; None until that has changed for the first time."""
    works: bool = False
    """Whether its part of a batch was begun."""
    outcome: str | None = None
    """Why its part of a batch failed, "" where it is answered; None before that."""
    leaves: bool = False
    is_gone: bool = False
    """Whether the pod is deleted; its engine may still drain."""


class Agent:
    """Follows the pods of pools and batches on one site, and keeps engines and status."""

    def __init__(  # noqa: PLR0913 - what stands around it
        self,
        cluster: Cluster,
        addresses: AddressBook,
        engines: EngineFile,
        metrics: AgentMetrics,
        *,
        store: Place | None = None,
        metric_names: str = TODAY,
        host: Callable[[Callable[[Identity, View], None]], Host] = Host,
    ) -> None:
        self._cluster = cluster
        self._addresses = addresses
        self._engines = engines
        self._metrics = metrics
        self._metric_names = metric_names
        self.host = host(self._engine_changed)
        self._batches = BatchRuns(store, self._batch_ended)
        self._in_touch_at = 0.0
        self._lock = threading.RLock()
        self._known: dict[str, _Known] = {}
        self._groups: dict[tuple[str, str, str], set[str]] = {}
        self._queue = WorkQueue()

    @property
    def in_touch(self) -> bool:
        """Whether the API server has answered lately."""
        return time.monotonic() - self._in_touch_at < _NOT_READY_AFTER_S + WATCH_FOR_S

    def holding(self) -> list[PoolPod]:
        """The pods that hold GPUs: those with a node that have not ended."""
        with self._lock:
            pods = [known.pod for known in self._known.values() if not known.is_gone]
        return [pod for pod in pods if pod.body["status"]["phase"] not in ENDED]

    def run(self) -> None:
        """List, watch, and begin again, until the process is ended."""
        for number in range(_WRITERS):
            threading.Thread(target=self._write, daemon=True, name=f"writer-{number}").start()
        pause_s = 0.1
        while True:
            try:
                self.follow()
                pause_s = 0.1
            except FleetError as error:
                # An API server that starts refuses all until it has read who may do what.
                sys.stderr.write(f"{error.what}; again in {pause_s:.1f} s\n")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def follow(self) -> None:
        """One list and the watch that follows it.

        Raises:
            Retryable: the API server is gone.
            Failed: it refuses.
        """
        listed = self._cluster.collection(_PODS)
        self._in_touch_at = time.monotonic()
        pods = [pod for each in listed["items"] if (pod := PoolPod(each)).is_ours]
        self._keep_only({pod.uid for pod in pods})
        for pod in pods:
            self._see(pod)
        since = listed["metadata"]["resourceVersion"]
        for event in self._cluster.watch(_PODS, labels="", since=since, for_s=WATCH_FOR_S):
            self._in_touch_at = time.monotonic()
            if event["type"] == "ERROR":
                return
            pod = PoolPod(event["object"])
            if event["type"] == "DELETED":
                self._gone(pod.uid)
            elif pod.is_ours:
                self._see(pod)

    def _keep_only(self, listed: set[str]) -> None:
        """Whatever is not there any more went while nobody looked."""
        with self._lock:
            known = set(self._known)
        for uid in known - listed:
            self._gone(uid)
        self._addresses.keep_only(listed | known)

    def _see(self, pod: PoolPod) -> None:
        """Take a pod as it is now: start its engine or let it go, and have its status written."""
        if not pod.body["spec"].get("nodeName"):
            return
        with self._lock:
            known = self._known.get(pod.uid)
        if known is None:
            known = self._take(pod)
        with self._lock:
            known.pod = pod
            if pod.is_leaving or pod.body["status"]["phase"] in ENDED:
                self._leave(known)
        self._queue.add(pod.uid)

    def _take(self, pod: PoolPod) -> _Known:
        """A pod that is new, or that was there before the agent was."""
        status = pod.body["status"]
        lived = status["phase"] == "Running"
        if lived:
            self._addresses.adopt(pod.uid, status.get("podIP", ""))
        stays = not pod.is_leaving and status["phase"] not in ENDED
        known = _Known(pod, self._addresses.address_of(pod.uid) if stays else "")
        known.runs = stays and pod.serves
        # Not while an address is written to the disk: the engines' thread waits for this lock.
        with self._lock:
            self._known[pod.uid] = known
            if group := pod.group:
                self._groups.setdefault(group, set()).add(pod.uid)
        if known.runs:
            start = Start(
                lambda: pod.settings(self._engines, self._metric_names),
                pod.probes,
                restarts=restarts_of(pod.body) + 1 if lived else 0,
                last_death=lost_life(pod.body, datetime.now(UTC)) if lived else None,
            )
            self.host.begin(pod.identity(known.address), start)
        return known

    def _leave(self, known: _Known) -> None:
        if known.runs and not known.leaves:
            known.leaves = True
            # A batch's work keeps what it has, before its engine goes.
            if not self._batches.stop(known.pod.uid):
                self.host.leave(known.pod.uid, known.pod.grace_s)

    def _gone(self, uid: str) -> None:
        """A pod is deleted; its address is free when its engine has drained."""
        with self._lock:
            known = self._known.get(uid)
            if known is None:
                return
            known.is_gone = True
            self._leave(known)
        self._queue.add(uid)

    def _forget(self, known: _Known) -> None:
        uid = known.pod.uid
        self._addresses.release(uid)
        with self._lock:
            self._known.pop(uid, None)
            if group := known.pod.group:
                self._groups.get(group, set()).discard(uid)
                if not self._groups.get(group):
                    self._groups.pop(group, None)

    def _engine_changed(self, identity: Identity, view: View) -> None:
        """Called in the engines' own thread."""
        self._metrics.engine_changed(identity, view)
        with self._lock:
            known = self._known.get(identity.uid)
            if known is None:
                return
            known.view = view
            if view.phase is Phase.GONE:
                known.runs = False
            self._begin_batch(known)
            touched = self._groups.get(known.pod.group, set()) if known.pod.group else set()
        for uid in {identity.uid, *touched}:
            self._queue.add(uid)

    def _begin_batch(self, known: _Known) -> None:
        """Let a batch's pod work once its engine answers."""
        is_ready = known.view is not None and known.view.is_ready
        if known.pod.is_batch and is_ready and not (known.works or known.leaves):
            known.works = True
            self._batches.begin(known.pod.body, f"http://{known.address}:{ENGINE_PORT}")

    def _batch_ended(self, pod: Object, why: str | None) -> None:
        """Called in the thread of a batch's pod."""
        uid = pod["metadata"]["uid"]
        with self._lock:
            known = self._known.get(uid)
            if known is None:
                return
            known.outcome = why
            if known.leaves:
                self.host.leave(uid, 0.0)
        self._queue.add(uid)

    def _write(self) -> None:
        """Write one status after the other, until the process is ended."""
        while True:
            uid = self._queue.take()
            try:
                self.settle(uid)
            except Retryable as error:
                sys.stderr.write(f"{error.what}; again in {_WRITE_AGAIN_S:.0f} s\n")
                time.sleep(_WRITE_AGAIN_S)
                self._queue.add(uid)
            except FleetError as error:
                # Gone or changed since: the next event brings the newer state.
                sys.stderr.write(f"{error}\n")
            except Exception:  # noqa: BLE001 - without writers no pod would ever change
                # What is wrong with this pod is none of the others'; the next list brings it again.
                traceback.print_exc()
            finally:
                self._queue.done(uid)

    def settle(self, uid: str) -> None:
        """Bring one pod's status to what its node would report.

        Raises:
            Retryable: the API server is gone.
            Failed: it refuses.
        """
        with self._lock:
            known = self._known.get(uid)
            if known is None:
                return
            pod = known.pod
            is_over = known.is_gone and not known.runs
            status = None if known.is_gone else self._wanted(known)
        if is_over:
            self._forget(known)
        if status is None or says_the_same(pod.body["status"], status):
            return
        ready = is_ready(status)
        # Its node may be lost, whoever has lived or died here since: the node controller says once
        # that the pod is not ready, and not again.
        says_not = pod.body["status"]["phase"] == "Running" and not is_ready(pod.body["status"])
        if ready and says_not and not self._is_node_ready(pod.body["spec"]["nodeName"]):
            return
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status"
        answer = self._cluster.merge(path, {"status": status})
        with self._lock:
            if known.pod is pod:
                known.pod = PoolPod(answer)

    def _wanted(self, known: _Known) -> Object | None:
        """What a pod's status has to say; None where nobody has to say anything."""
        pod, now = known.pod, datetime.now(UTC)
        phase = pod.body["status"]["phase"]
        if phase in ENDED:
            return None
        if pod.is_leaving:
            return _last_words(known, now)
        if known.outcome is not None:
            return finished_status(pod.body, known.outcome, now)
        ready = self._leader_is_ready(known)
        begun = begun_status(pod.body, known.address, now, is_ready=ready)
        if pod.serves:
            begun = begun_status(pod.body, known.address, now, is_ready=False)
            serving = serving_status(pod.body, known.view, now) if known.view else {}
            serving["conditions"] = begun["conditions"][:2] + serving.get(
                "conditions", begun["conditions"][2:]
            )
            begun |= serving
        if phase == "Pending":
            return begun
        if not pod.serves:
            return same_life(pod.body, is_ready=ready, now=now)
        return {
            key: value for key, value in begun.items() if key in {"conditions", "containerStatuses"}
        }

    def _leader_is_ready(self, known: _Known) -> bool:
        """Whether the replica serves that a pod without an engine of its own is a part of."""
        group = known.pod.group
        leaders = [
            other
            for uid in (self._groups.get(group, ()) if group else ())
            if (other := self._known[uid]).pod.serves
        ]
        return all(leader.view is not None and leader.view.is_ready for leader in leaders)

    def _is_node_ready(self, name: str) -> bool:
        node = self._cluster.get(f"/api/v1/nodes/{name}")
        return node is not None and is_ready(node.get("status", {}))


def _last_words(known: _Known, now: datetime) -> Object | None:
    """What the status of a deleted pod has to say, where somebody still holds it.

    Kueue lets go of a replica over nodes, and a Job of its pod, when the pod has ended, as a
    kubelet tells it.
    """
    if known.runs or not known.pod.is_held:
        return None
    return (stopped_status if known.pod.is_batch else ended_status)(known.pod.body, now)


def main() -> None:
    """Run the agent of a site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric-names", choices=METRIC_NAMES, default=TODAY)
    given = parser.parse_args()
    # A listener for each replica, and its connections.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings = read_json(given.folder / "site.json")
    cluster = Cluster(given.folder / "agent.kubeconfig", settings["name"])
    addresses = AddressBook(given.folder / "addresses.json", settings["addresses"])
    metrics = AgentMetrics(lambda: addresses.in_use)
    place = read_json(given.folder / "s3.json")
    agent = Agent(
        cluster,
        addresses,
        EngineFile(given.folder),
        metrics,
        store=Place(**place) if place else None,
        metric_names=given.metric_names,
    )
    agent.host.start()
    gpus = GpuBoard(given.folder, agent.holding, agent.host.seen)
    api = AgentApi(agent.host, metrics, gpus, lambda: agent.in_touch)
    opening = api.open(LOOPBACK, settings["ports"]["agent"])
    asyncio.run_coroutine_threadsafe(opening, agent.host.loop).result()
    agent.run()


if __name__ == "__main__":
    try:
        main()
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
