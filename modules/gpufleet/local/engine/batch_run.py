"""The pods of batches on an embedded site: each answers its shard by its own virtual replica.

Stands where kubelet runs the pod's containers: a thread for each pod, which ends when the shard is
answered, when it has failed, or when the pod is told to go.
"""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.batch_answers import answer, read, written
from gpufleet.core.batch_jobs import EXIT_TOLD_TO_END, ShardKeys
from gpufleet.core.batch_requests import read_shard
from gpufleet.edges.batch_shard import Engine, Form, Shard
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.spec.errors import FleetError

Object = dict[str, Any]
_FORM: Final = Form(requests=read_shard, answers=read, written=written, answer=answer)
_INDEX: Final = "batch.kubernetes.io/job-completion-index"


class BatchRuns:
    """The shards that are answered now, by the uid of their pod.

    Args:
        place: of the site's own object store; another one is entered as AWS' variables say.
        ended: is told of each pod whose work has ended: "" where its shard is answered, why where
            it failed, None where it was told to end. Called from the pod's thread.
    """

    def __init__(self, place: Place | None, ended: Callable[[Object, str | None], None]) -> None:
        self._place = place
        self._ended = ended
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    def begin(self, pod: Object, engine: str) -> None:
        """Answer a pod's shard; one that is begun already goes on.

        Args:
            pod: one of a batch, which runs.
            engine: address of its own replica, such as `http://127.0.1.7:8000`.
        """
        about = pod["metadata"]
        with self._lock:
            if about["uid"] in self._stops:
                return
            stopped = self._stops[about["uid"]] = threading.Event()
        threading.Thread(
            target=self._work, args=(pod, engine, stopped), daemon=True, name=about["name"]
        ).start()

    def stop(self, uid: str) -> bool:
        """Let a pod's work end and keep what it has; False where none is done."""
        with self._lock:
            stopped = self._stops.get(uid)
        if stopped is None:
            return False
        stopped.set()
        return True

    def _work(self, pod: Object, engine: str, stopped: threading.Event) -> None:
        why: str | None = ""
        try:
            shard, concurrency = self._shard_of(pod)
            is_done = shard.answer(Engine(engine, concurrency), stopped.is_set)
            why = "" if is_done else None
        except FleetError as error:
            why = str(error)
        except (KeyError, ValueError, TypeError) as error:
            why = f"the pod is not one of ours: {error!r}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod has ended
            why = f"unforeseen: {error!r}"
        finally:
            if why and stopped.is_set():
                why = None
            with self._lock:
                del self._stops[pod["metadata"]["uid"]]
            self._ended(pod, why)

    def _shard_of(self, pod: Object) -> tuple[Shard, int]:
        """The shard of a batch's pod, and its requests in flight: as its arguments say."""
        about = pod["metadata"]
        batch, index = about["labels"][names.BATCH_JOB], int(about["annotations"][_INDEX])
        given = dict(
            argument.removeprefix("--").split("=", 1)
            for argument in pod["spec"]["containers"][0]["args"]
            if "=" in argument
        )
        place = Place(given["endpoint"], given["region"])
        if self._place and self._place.endpoint == place.endpoint:
            place = self._place
        keys = ShardKeys(batch, index)
        shard = Shard(f"{batch}-{index}", ObjectStore(place), given["bucket"], keys, _FORM)
        return shard, int(given["concurrency"])


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
