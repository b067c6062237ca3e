"""Restoring to nodes on a real control plane: each index on its node, under the admission policies.

There is no kubelet: the test ends the pods, and runs what one of them would run.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import Until, small_fleet
from tests.contract.caching_nodes import GROUP, JOBS, PODS, SITE, caching_nodes
from tests.object_stores import StoreServer
from tests.snapshot_bench import picture, quiet
from tests.watched_fleets import on_clusters

from gpufleet.components.restore_job import RestoreWork, restore_job
from gpufleet.components.site import DeclaredSite
from gpufleet.components.snapshot_jobs import cron_job
from gpufleet.components.worker_pod import WorkerPlan
from gpufleet.core import vocabulary as names
from gpufleet.core.snapshots.schedule import lines
from gpufleet.core.weights import StoreAccess, snapshots_bucket
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.node_restore import NodeOrder, plan, restore_to_nodes
from gpufleet.flows.snapshots.requests import TakeWish, taken
from gpufleet.flows.stores import places_of
from gpufleet.spec.errors import BadInput, Failed, PolicyRefused
from gpufleet.spec.hardware import AddressingStyle
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule

if TYPE_CHECKING:
    from gpufleet.spec.node_restores import NodeRestoreReport

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def control_plane(
    tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[tuple[Cluster, Path]]:
    with caching_nodes(tmp_path_factory.mktemp("nodes"), until) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(control_plane: tuple[Cluster, Path]) -> Cluster:
    """The site's API."""
    return control_plane[0]


@pytest.fixture
def ground(
    control_plane: tuple[Cluster, Path], snapshot_server: StoreServer, tmp_path: Path
) -> Iterator[Ground]:
    """An environment of its own name at this site."""
    state = EnvironmentDir(tmp_path / "state").make()
    state.kubeconfig.write_bytes(control_plane[1].read_bytes())
    snapshot_server.declare(state, SITE)
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:]
    fleet = small_fleet(SITE).model_copy(update={"fleet": f"{name}{os.getpid()}"})
    file = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    yield Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, system_clock)
    database.close()


@pytest.fixture
def snapshot(ground: Ground, tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_bytes(os.urandom(3 * 2**20))
    return taken(ground, TakeWish(tmp_path / "source", "chat-v7"), SITE, quiet).snapshot


def test_each_index_goes_to_its_node_and_the_outcome_is_told_by_node(
    ground: Ground, cluster: Cluster, snapshot: str, until: Until
) -> None:
    order = NodeOrder(snapshot, GROUP, node_bytes_per_s=1e9, store_bytes_per_s=1e9)
    planned = plan(ground, order)
    assert planned.parallelism == 1
    assert len(planned.nodes) == 2
    found: list[NodeRestoreReport] = []
    thread = threading.Thread(
        target=lambda: found.append(restore_to_nodes(ground, order, lambda *_: None))
    )
    thread.start()
    placed: dict[str, str] = {}

    def end_one() -> bool:
        """What a kubelet does once the container has ended well."""
        selected = f"batch.kubernetes.io/job-name={planned.job}"
        for pod in cluster.items(PODS, labels=selected):
            about, node = pod["metadata"], pod["spec"].get("nodeName")
            if node and pod["status"].get("phase") in {"Pending", "Running"}:
                placed[about["annotations"]["batch.kubernetes.io/job-completion-index"]] = node
                path = f"{PODS}/{about['name']}/status"
                cluster.merge_existing(path, {"status": {"phase": "Succeeded"}})
            elif node:
                placed[about["annotations"]["batch.kubernetes.io/job-completion-index"]] = node
        return not thread.is_alive()

    until(end_one)
    thread.join()
    (report,) = found
    assert (sorted(report.done), report.failed) == (sorted(planned.nodes), [])
    assert placed == {str(index): node for index, node in enumerate(planned.nodes)}
    # What has ended is no hindrance to another one.
    assert plan(ground, order).job != planned.job
    (record,) = ground.journal.latest("snapshot.restored_to_nodes", 1)
    assert record.body["done"] == report.done


def test_what_its_pod_runs_restores_the_snapshot(
    ground: Ground, snapshot: str, tmp_path: Path
) -> None:
    place = places_of(ground)[SITE]
    work = RestoreWork(
        job="restore-x-1",
        fleet=ground.fleet.slug,
        image=ground.fleet.images.gpufleet,
        snapshot=snapshot,
        revision="chat-v7",
        node_group=GROUP,
        nodes=1,
        parallelism=1,
        bucket=snapshots_bucket(ground.fleet),
        store=StoreAccess(place.endpoint, place.region, AddressingStyle.PATH, own_authority=False),
        encrypted=False,
    )
    (container,) = restore_job(work, "[]")["spec"]["template"]["spec"]["containers"]
    arguments = [each.replace("/cache/", f"{tmp_path}/cache/") for each in container["args"]]
    (tmp_path / "cache").mkdir()
    keys = {
        "AWS_ACCESS_KEY_ID": str(place.access_key),
        "AWS_SECRET_ACCESS_KEY": str(place.secret_key),
    }
    tree = tmp_path / "cache" / "chat-v7"

    def restored() -> int:
        """The inode of the restored file."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "gpufleet.tasks", *arguments],
            cwd=PROJECT_ROOT,
            env={**os.environ, **keys},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == 1
        assert picture(tree) == picture(tmp_path / "source")
        return next(tree.iterdir()).stat().st_ino

    first = restored()
    # Engines have it open: what is there and right stays.
    assert restored() == first
    file = next(tree.iterdir())
    file.chmod(0o600)
    second = restored()
    assert second != first
    file.write_bytes(file.read_bytes()[::-1])
    assert restored() != second


def test_admission_holds_the_pods_to_one_folder_of_their_node(
    cluster: Cluster, until: Until
) -> None:
    fleet = small_fleet(SITE)

    def made(path: str, **context: object) -> dict[str, Any]:
        work = RestoreWork(
            job=f"restore-{len(path)}-{len(context)}",
            fleet=fleet.slug,
            image=fleet.images.gpufleet,
            snapshot="x",
            revision="r",
            node_group=GROUP,
            nodes=1,
            parallelism=1,
            bucket="b",
            store=StoreAccess("https://s3", "r", AddressingStyle.PATH, own_authority=False),
            encrypted=False,
        )
        job = restore_job(work, "[]")
        pod = job["spec"]["template"]["spec"]
        pod["volumes"][0]["hostPath"]["path"] = path
        pod["containers"][0]["securityContext"] |= context
        return job

    def is_refused() -> bool:
        try:
            cluster.create(JOBS, made("/"))
        except Failed:
            return True
        return False

    # A policy is in force a moment after it was made.
    until(is_refused)
    assert cluster.create(JOBS, made(names.CACHE_FOLDER))
    for path in ("/", "/etc", "/var/lib/gpufleet"):
        with pytest.raises(Failed, match="of a node only its folder"):
            cluster.create(JOBS, made(path))
    with pytest.raises(Failed, match="every capability is dropped"):
        cluster.create(JOBS, made(names.CACHE_FOLDER, capabilities={}))


def test_what_is_scheduled_is_a_cron_job_that_the_cluster_takes(cluster: Cluster) -> None:
    file = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    revision = ScheduledRevision(source="/v7", claim="models")
    schedule = SnapshotSchedule(revisions={"chat.v7": revision})
    fleet = on_clusters(small_fleet(SITE)).model_copy(update={"snapshot_schedule": schedule})
    worker = WorkerPlan.of(DeclaredSite(fleet, file, SITE))
    path = collection_path("batch/v1", "CronJob", names.SYSTEM_NAMESPACE)
    for line in lines(fleet):
        assert cluster.create(path, cron_job(line, worker))
    assert len(cluster.items(path)) == 2


def test_a_group_that_is_not_there_and_an_unknown_rate_are_told(
    ground: Ground, cluster: Cluster, snapshot: str
) -> None:
    assert cluster.items("/api/v1/nodes")
    with pytest.raises(BadInput, match="no such node group"):
        plan(ground, NodeOrder(snapshot, "a100", 1e9))
    with pytest.raises(BadInput, match="how fast one node restores"):
        plan(ground, NodeOrder(snapshot, GROUP))


def test_a_cache_that_pods_serve_from_is_not_filled_with_another_content(
    ground: Ground, cluster: Cluster, tmp_path: Path
) -> None:
    assert cluster.items("/api/v1/nodes")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    name = next(pool.model for pool in ground.fleet.pools.values() if GROUP in pool.placements)
    report = taken(ground, TakeWish(tmp_path / "weights", name), SITE, quiet)
    order = NodeOrder(report.snapshot, GROUP, 1e9)
    with pytest.raises(PolicyRefused, match="there with the digest"):
        plan(ground, order)
    model = ground.fleet.models[name].model_copy(update={"digest": report.digest})
    models = {**ground.fleet.models, name: model}
    declared = replace(ground, fleet=ground.fleet.model_copy(update={"models": models}))
    assert plan(declared, order).revision == name
