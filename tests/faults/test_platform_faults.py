"""The embedded platform after kills, stolen ports, broken engines and interruptions."""

import json
import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml
from filelock import FileLock

from gpufleet.edges.kube import Cluster
from gpufleet.spec.errors import Failed, Retryable

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITES = ("east", "west")
KINDS = (
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets",
)
NAMESPACE = "faults"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
SETS = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


def template(pool: str) -> dict[str, Any]:
    amount = {"nvidia.com/gpu": "1"}
    engine = {"name": "engine", "image": "example/engine:1", "resources": {"limits": amount}}
    return {
        "metadata": {"labels": {"gpufleet.dev/pool": pool}},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [engine],
        },
    }


def leader_worker_set(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {"size": 2, "workerTemplate": template(name)},
        },
    }


def provision(cluster: Cluster) -> None:
    """A pool as a Deployment, and one as a LeaderWorkerSet."""
    cluster.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    )
    selector = {"matchLabels": {"gpufleet.dev/pool": "answers"}}
    cluster.create(
        DEPLOYMENTS,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "answers"},
            "spec": {"replicas": 2, "selector": selector, "template": template("answers")},
        },
    )
    cluster.create(SETS, leader_worker_set("large"))


def is_ready(cluster: Cluster) -> bool:
    """Whether every replica that `provision` asks for is ready."""
    deployment, group = cluster.get(f"{DEPLOYMENTS}/answers"), cluster.get(f"{SETS}/large")
    return bool(
        deployment
        and deployment["status"].get("readyReplicas") == 2
        and group
        and group.get("status", {}).get("readyReplicas") == 1
    )


def uids(embedded: "Embedded") -> dict[tuple[str, str, str], str]:
    """The identity of everything that is provisioned: site, kind, name → UID."""
    return {
        (site, kind, found["metadata"]["name"]): found["metadata"]["uid"]
        for site in embedded.platform.sites
        for kind in KINDS
        for found in embedded.cluster(site).items(kind)
    }


@pytest.fixture(scope="module")
def provisioned(embedded: "Embedded", until: "Until") -> Iterator["Embedded"]:
    for site in SITES:
        provision(embedded.cluster(site))
    for site in SITES:
        until(lambda site=site: is_ready(embedded.cluster(site)))  # type: ignore[misc]
    yield embedded
    for site in SITES:
        embedded.cluster(site).delete(f"/api/v1/namespaces/{NAMESPACE}")


def assert_healed(embedded: "Embedded", before: dict[tuple[str, str, str], str]) -> None:
    assert uids(embedded) == before
    assert all(state.ready for state in embedded.processes().values())
    assert all(is_ready(embedded.cluster(site)) for site in embedded.platform.sites)


@pytest.mark.parametrize(
    "name",
    [
        *("etcd", "apiserver", "controller-manager", "scheduler", "kwok", "agent", "s3"),
        *("lws", "kueue", "keda", "keda-adapter", "keda-webhooks", "prometheus"),
    ],
)
def test_up_heals_a_killed_process_and_loses_nothing(provisioned: "Embedded", name: str) -> None:
    before = uids(provisioned)
    killed = provisioned.processes()["east", name].pid
    os.kill(killed, signal.SIGKILL)
    provisioned.up()
    assert provisioned.processes()["east", name].pid != killed
    assert_healed(provisioned, before)


def test_up_heals_when_everything_was_killed_and_loses_nothing(provisioned: "Embedded") -> None:
    before = uids(provisioned)
    for process in provisioned.system_processes():
        process.kill()
    provisioned.up()
    assert_healed(provisioned, before)


def test_orphans_of_a_killed_supervisor_are_ended_before_others_start(
    provisioned: "Embedded", until: "Until"
) -> None:
    before = uids(provisioned)
    supervisor, *orphans = provisioned.system_processes()
    assert supervisor.name() == "process-compose"
    supervisor.kill()
    until(lambda: not provisioned.processes())
    assert all(orphan.is_running() for orphan in orphans)
    provisioned.up()
    assert not any(orphan.is_running() for orphan in orphans)
    assert len(provisioned.system_processes()) == len(orphans) + 1
    assert_healed(provisioned, before)


def test_a_process_of_somebody_else_with_a_remembered_pid_is_left_alone(
    another: "Embedded",
) -> None:
    """A process id that the system gave away again is told by its start time."""
    another.up()
    another.down()
    me = psutil.Process()
    (another.state.root / "supervisor.json").write_text(
        json.dumps({"pid": me.pid, "started": me.create_time() - 1000, "declared": ""})
    )
    assert another.processes() == {}
    another.up()
    assert me.is_running()
    assert all(state.ready for state in another.processes().values())


def test_down_stops_in_reverse_order_and_up_brings_the_same_back(another: "Embedded") -> None:
    another.up()
    provision(another.cluster("solo"))
    before = uids(another).get(("solo", "/apis/apps/v1/deployments", "answers"))
    another.down()
    assert another.system_processes() == []
    log = re.sub(r"\x1b\[\d+m", "", (another.state.logs / "supervisor.log").read_text())
    ended = re.findall(r"Exited .*process=solo\.(\S+)", log)
    assert ended[-2:] == ["apiserver", "etcd"]
    assert {"kwok", "lws", "agent", "scheduler", "controller-manager"} <= set(ended[:-2])
    another.up()
    assert uids(another).get(("solo", "/apis/apps/v1/deployments", "answers")) == before


@pytest.mark.slow
def test_a_stolen_port_is_chosen_again_everywhere_it_is_written(
    another: "Embedded", until: "Until"
) -> None:
    another.up()
    another.down()
    file = another.state.site("solo") / "ports.json"
    ports = json.loads(file.read_text())
    stolen = {"etcd", "apiserver", "lws-webhook", "prometheus", "s3"}
    with ExitStack() as strangers:
        for name in stolen:
            stranger = strangers.enter_context(socket.socket())
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", ports[name]))
            stranger.listen()
        another.up()
        chosen = json.loads(file.read_text())
        assert {name for name in ports if ports[name] != chosen[name]} == stolen
        (entry,) = yaml.safe_load(another.state.kubeconfig.read_text())["clusters"]
        assert entry["cluster"]["server"].endswith(f":{chosen['apiserver']}")
        store = json.loads((another.state.site("solo") / "s3.json").read_text())
        assert store["endpoint"].endswith(f":{chosen['s3']}")
        # Through the webhook, at its new port.
        provision(another.cluster("solo"))
        until(lambda: is_ready(another.cluster("solo")))


@pytest.mark.slow
def test_a_process_that_does_not_start_is_named_with_the_end_of_its_log(
    another: "Embedded", tmp_path: Path
) -> None:
    broken = tmp_path / "kube-scheduler"
    broken.write_text("#!/bin/sh\necho cannot read the moon phase >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(Failed) as error:
        another.with_binary("kube-scheduler", broken).up()
    assert error.value.where == "scheduler at solo"
    assert "cannot read the moon phase" in error.value.mend
    assert str(another.state.logs / "solo-scheduler.log") in error.value.mend
    another.up()
    assert all(state.ready for state in another.processes().values())


def test_an_interrupted_up_is_mended_by_the_next(another: "Embedded", until: "Until") -> None:
    first = multiprocessing.get_context("fork").Process(target=another.up)
    first.start()
    until(another.system_processes)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGINT)
    first.join(30)
    assert first.exitcode
    another.up()
    assert all(state.ready for state in another.processes().values())
    assert len(another.cluster("solo").items("/api/v1/nodes")) == 2
    supervisors = [each for each in another.system_processes() if each.name() == "process-compose"]
    assert len(supervisors) == 1


def test_of_two_ups_at_once_one_is_told_to_wait(another: "Embedded") -> None:
    another.state.make()
    with (
        FileLock(another.state.root / ".platform.lock"),
        pytest.raises(Retryable, match="under way"),
    ):
        another.up()
