"""The pods of batches on an embedded site: each answers its shard by its own virtual replica.

Stands where kubelet runs the pod's containers: a thread for each pod, which ends when the shard is
answered, when it has failed, or when the pod is told to go.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.batch_answers import answer, read, written
from gpufleet.core.batch_jobs import EXIT_TOLD_TO_END, ShardKeys
from gpufleet.core.batch_requests import read_shard
from gpufleet.edges.batch_shard import Engine, Form, Shard
from gpufleet.edges.object_store import ObjectStore
from gpufleet.spec.errors import FleetError

Object = dict[str, Any]
_FORM: Final = Form(requests=read_shard, answers=read, written=written, answer=answer)
_INDEX: Final = "batch.kubernetes.io/job-completion-index"
_STOP_WITHIN_S: Final = 10.0


def is_batch_pod(pod: Object) -> bool:
    """Whether a pod answers a shard of a batch."""
    return names.BATCH_JOB in (pod["metadata"].get("labels") or {})


def shard_of(pod: Object, store: ObjectStore) -> tuple[Shard, int]:
    """The shard of a batch's pod, and its requests in flight: as its arguments say.

    Raises:
        KeyError: it is not made as our pods are.
    """
    about = pod["metadata"]
    batch, index = about["labels"][names.BATCH_JOB], int(about["annotations"][_INDEX])
    given = dict(
        argument.removeprefix("--").split("=", 1)
        for argument in pod["spec"]["containers"][0]["args"]
        if "=" in argument
    )
    keys = ShardKeys(batch, index)
    shard = Shard(f"{batch}-{index}", store, given["bucket"], keys, _FORM)
    return shard, int(given["concurrency"])


@dataclass
class _Running:
    stopped: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class BatchRuns:
    """The shards that are answered now, by the uid of their pod.

    Args:
        store: of the site.
        ended: is told of a pod that has ended by itself, and why it failed; "" where it did not.
            Called from the pod's thread.
    """

    def __init__(self, store: ObjectStore, ended: Callable[[Object, str], None]) -> None:
        self._store = store
        self._ended = ended
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}

    def begin(self, pod: Object, engine: str) -> None:
        """Answer a pod's shard; one that is begun already goes on.

        Args:
            pod: one of a batch, which runs.
            engine: address of its own replica, such as `http://127.0.1.7:8000`.
        """
        uid = pod["metadata"]["uid"]
        with self._lock:
            if uid in self._running:
                return
            running = self._running[uid] = _Running()
        running.thread = threading.Thread(
            target=self._work,
            args=(pod, engine, running.stopped),
            daemon=True,
            name=pod["metadata"]["name"],
        )
        running.thread.start()

    def stop(self, uid: str) -> None:
        """Let a pod's work end, and keep what it has; returns when it is kept."""
        with self._lock:
            running = self._running.pop(uid, None)
        if running is None:
            return
        running.stopped.set()
        if running.thread is not None:
            running.thread.join(_STOP_WITHIN_S)

    def keep_only(self, uids: Iterable[str]) -> None:
        """Let the work of pods that are gone end."""
        known = set(uids)
        with self._lock:
            gone = [uid for uid in self._running if uid not in known]
        for uid in gone:
            self.stop(uid)

    def _work(self, pod: Object, engine: str, stopped: threading.Event) -> None:
        why = ""
        try:
            shard, concurrency = shard_of(pod, self._store)
            is_done = shard.answer(Engine(engine, concurrency), stopped.is_set)
        except FleetError as error:
            is_done, why = False, str(error)
        except (KeyError, ValueError, TypeError) as error:
            is_done, why = False, f"the pod is not one of ours: {error!r}"
        if stopped.is_set():
            return
        with self._lock:
            self._running.pop(pod["metadata"]["uid"], None)
        self._ended(pod, "" if is_done else why or "its shard was not answered")


def finished_status(pod: Object, why: str, now: datetime) -> Object:
    """The status of a pod of a batch that has ended by itself: well, or with why it did not."""
    return _status(pod, 1 if why else 0, why, now)


def stopped_status(pod: Object, now: datetime) -> Object:
    """The status of a pod of a batch that was told to go, and kept what it had."""
    return _status(pod, EXIT_TOLD_TO_END, "was told to end", now)


def _status(pod: Object, exit_code: int, message: str, now: datetime) -> Object:
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    terminated = {
        "exitCode": exit_code,
        "reason": "Error" if exit_code else "Completed",
        "message": message[:1000],
        "startedAt": pod["status"].get("startTime") or at,
        "finishedAt": at,
    }
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": [
            {"type": kind, "status": "False", "lastTransitionTime": at}
            for kind in ("ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "containerID": f"simulated://{container['name']}",
                "restartCount": 0,
                "ready": False,
                "started": False,
                "state": {"terminated": terminated},
            }
            for container in pod["spec"]["containers"]
        ],
    }
