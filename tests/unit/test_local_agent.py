"""What the node agent writes into the status of a pool's pod."""

from datetime import UTC, datetime
from typing import Any

from gpufleet.local.pod_status import ended_status, running_status

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
POD: dict[str, Any] = {
    "metadata": {"name": "replica", "uid": "u"},
    "spec": {
        "initContainers": [{"name": "weights", "image": "restore@sha256:1"}],
        "containers": [{"name": "engine", "image": "vllm@sha256:2"}],
    },
}


def test_a_replica_serves_at_its_address_since_now() -> None:
    status = running_status(POD, "127.20.0.7", NOW)
    assert (status["phase"], status["podIP"]) == ("Running", "127.20.0.7")
    assert status["podIPs"] == [{"ip": "127.20.0.7"}]
    assert status["startTime"] == "2026-03-01T12:30:00Z"
    assert {each["type"] for each in status["conditions"] if each["status"] == "True"} == {
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    }


def test_init_containers_have_ended_and_containers_run() -> None:
    status = running_status(POD, "127.20.0.7", NOW)
    (weights,), (engine,) = status["initContainerStatuses"], status["containerStatuses"]
    assert weights["state"]["terminated"]["exitCode"] == 0
    assert engine["state"]["running"]["startedAt"] == "2026-03-01T12:30:00Z"
    assert engine["ready"]
    assert engine["started"]
    assert (engine["imageID"], engine["restartCount"]) == ("vllm@sha256:2", 0)


def test_a_replica_that_was_deleted_ends_as_it_was_told_to() -> None:
    running = {**POD, "status": running_status(POD, "127.20.0.7", NOW)}
    later = datetime(2026, 3, 1, 12, 45, tzinfo=UTC)
    status = ended_status(running, later)
    assert status["phase"] == "Succeeded"
    assert {each["status"] for each in status["conditions"]} == {"False"}
    (engine,) = status["containerStatuses"]
    assert not engine["ready"]
    assert engine["state"]["terminated"]["startedAt"] == "2026-03-01T12:30:00Z"
    assert engine["state"]["terminated"]["finishedAt"] == "2026-03-01T12:45:00Z"
