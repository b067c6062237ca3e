"""The threads that answer shards of batches on an embedded site."""

import threading
from typing import Any

from gpufleet.core import vocabulary as names
from gpufleet.local.engine.batch_run import BatchRuns


def test_a_pod_whose_work_breaks_off_unforeseen_has_ended_and_tells_why() -> None:
    ended, told = threading.Event(), []

    def tell(_: dict[str, Any], why: str | None) -> None:
        told.append(why)
        ended.set()

    runs = BatchRuns(None, tell)
    pod: dict[str, Any] = {
        "metadata": {
            "uid": "u",
            "name": "shard-0",
            "labels": {names.BATCH_JOB: "b"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
        },
        # Not what an API server tells: it has no container at all.
        "spec": {"containers": []},
    }
    runs.begin(pod, "http://127.0.0.1:9")
    assert ended.wait(10)
    assert "IndexError" in str(told[0])
    assert not runs.stop("u")
