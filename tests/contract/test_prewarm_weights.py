"""Weights are pulled ahead of peaks on a real control plane, in a freeze, as the worker's account.

There is no kubelet: the test ends the pods.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Until
from tests.contract.caching_nodes import HOSTS, JOBS, PODS, SITE, caching_nodes
from tests.contract.pulling_worker import POOL, ground_in, pulling_fleet
from tests.object_stores import StoreServer
from tests.snapshot_bench import quiet

from gpufleet.components import restore_job
from gpufleet.core import freeze_admission, freeze_state
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_worker import cluster_rules, namespace_rules
from gpufleet.core.prewarm_weights import LEAST
from gpufleet.core.prewarming import Window, windows
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import object_path
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import prewarm_weights
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.prewarm_schedule import schedule_of
from gpufleet.flows.prewarm_weights import MISSING, PULLED, WeightsKeeper, filled, outlook
from gpufleet.flows.snapshots.requests import TakeWish, taken
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.prewarming import WeightsPull

pytestmark = pytest.mark.timeout(300)
OPENS = datetime(2027, 3, 3, 8, tzinfo=UTC)
STARTS = OPENS - timedelta(minutes=10)
BEGINS = STARTS - LEAST
CLOSES = OPENS + timedelta(hours=1)
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture(scope="module")
def control_plane(
    tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[tuple[Cluster, str]]:
    """A cluster in a freeze, whose state nobody keeps either, and the worker's kubeconfig there."""
    with caching_nodes(tmp_path_factory.mktemp("nodes"), until) as (cluster, _):
        for thing in (*_account(), _frozen(), *freeze_admission.policies()):
            cluster.apply(object_path(thing), thing)
        for thing in freeze_admission.clock_policies():
            cluster.apply(object_path(thing), thing)
        until(lambda: "frozen:" in _refusal(cluster))
        account = cluster.kubeconfig_as(names.SYSTEM_NAMESPACE, names.WORKER, timedelta(hours=1))
        yield cluster, json.dumps(account)


def _frozen() -> dict[str, Any]:
    state = freeze_state.first_state()
    shut = dict.fromkeys(state["data"], "frozen: freeze `Audit week`")
    return {**state, "data": {**shut, "frozen": "true"}}


def _refusal(cluster: Cluster) -> str:
    """Why the namespace of nodes' caches takes no change."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}
    try:
        cluster.create(f"/api/v1/namespaces/{names.CACHE_NAMESPACE}/configmaps?dryRun=All", body)
    except Failed as error:
        return error.what
    return ""


def _account() -> list[dict[str, Any]]:
    """The worker's account with the rights that the platform stack gives it."""
    about = {"name": names.WORKER}
    inside = {**about, "namespace": names.CACHE_NAMESPACE}
    own = {"name": names.WORKER, "namespace": names.SYSTEM_NAMESPACE}
    api = f"{RBAC}/v1"
    given = {"subjects": [{"kind": "ServiceAccount", **own}]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": own},
        {"apiVersion": api, "kind": "ClusterRole", "metadata": about, "rules": cluster_rules()},
        {
            "apiVersion": api,
            "kind": "Role",
            "metadata": inside,
            "rules": namespace_rules(names.CACHE_NAMESPACE),
        },
        {
            "apiVersion": api,
            "kind": "ClusterRoleBinding",
            "metadata": about,
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", **about},
            **given,
        },
        {
            "apiVersion": api,
            "kind": "RoleBinding",
            "metadata": inside,
            "roleRef": {"apiGroup": RBAC, "kind": "Role", **about},
            **given,
        },
    ]


@dataclass
class Pulling:
    """An environment with a peak, its cluster as an administrator sees it, and what is told."""

    folder: Path
    ground: Ground
    cluster: Cluster
    missing: list[int | None] = field(default_factory=list)

    def keeper(self) -> WeightsKeeper:
        """A worker that has just begun."""

        def set_missing(window: Window, count: int | None) -> None:
            assert window.pool.name == POOL
            self.missing.append(count)

        return WeightsKeeper(LiveGround(self.ground), "worker", set_missing)

    def at(self, moment: datetime) -> None:
        """Set the clock."""
        (self.folder / "now").write_text(moment.isoformat())

    def take(self, revision: str = "llama-3.1-8b") -> str:
        """Take a snapshot of some new content, and declare that."""
        (self.folder / "source" / "weights").write_bytes(os.urandom(2**20))
        report = taken(self.ground, TakeWish(self.folder / "source", revision), SITE, quiet)
        (self.folder / "digest").write_text(report.digest)
        fleet = pulling_fleet(self.ground.fleet.fleet, report.digest)
        pools = self.ground.fleet.pools
        self.ground = replace(self.ground, fleet=fleet.model_copy(update={"pools": pools}))
        return report.snapshot

    def jobs(self) -> list[dict[str, Any]]:
        """Those of this environment."""
        return self.cluster.items(JOBS, labels=f"{names.FLEET}={self.ground.fleet.slug}")

    def placed(self) -> dict[str, str]:
        """Name of each pod that has a node and has not ended, by node."""
        return {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in self.cluster.items(PODS, labels=f"{names.FLEET}={self.ground.fleet.slug}")
            if pod["spec"].get("nodeName") and pod["status"].get("phase") in {"Pending", "Running"}
        }

    def end(self, *, fails: str = "") -> None:
        """What kubelets do once the containers of their nodes have ended."""
        for node, name in self.placed().items():
            phase = "Failed" if node == fails else "Succeeded"
            self.cluster.merge_existing(f"{PODS}/{name}/status", {"status": {"phase": phase}})

    def has_ended(self) -> bool:
        """Whether some Job was made, and none runs."""
        found = self.jobs()
        return bool(found) and all(
            any(each["status"] == "True" and each["type"] in {"Complete", "Failed"} for each in has)
            for has in (job["status"].get("conditions", []) for job in found)
        )

    def through(self, keeper: WeightsKeeper, until: Until, *, fails: str = "") -> None:
        """Look until the Job has ended, and once more."""

        def looked() -> bool:
            keeper.keep()
            self.end(fails=fails)
            return self.has_ended()

        until(looked)
        keeper.keep()

    def told(self, event: str) -> list[Any]:
        """What the journal has of one kind."""
        return [each.body for each in self.ground.journal.records() if each.event == event]


@pytest.fixture
def pulling(
    control_plane: tuple[Cluster, str], snapshot_server: StoreServer, tmp_path: Path
) -> Iterator[Pulling]:
    cluster, account = control_plane
    (tmp_path / "source").mkdir()
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:].lower()
    (tmp_path / "name").write_text(f"{name}{os.getpid()}")
    (tmp_path / "digest").write_text(f"sha256:{0:064}")
    (tmp_path / "now").write_text(BEGINS.isoformat())
    ground = ground_in(tmp_path)
    ground.state.kubeconfig.write_text(account)
    snapshot_server.declare(ground.state, SITE)
    made = Pulling(tmp_path, ground, cluster)
    yield made
    for job in made.jobs():
        cluster.delete(f"{JOBS}/{job['metadata']['name']}?propagationPolicy=Background")
    for pod in cluster.items(PODS, labels=f"{names.FLEET}={ground.fleet.slug}"):
        cluster.delete(f"{PODS}/{pod['metadata']['name']}", at_once=True)
    ground.close()


def test_weights_are_on_their_nodes_before_the_replicas_start_and_once_a_window(
    pulling: Pulling, until: Until
) -> None:
    snapshot = pulling.take()
    keeper = pulling.keeper()
    pulling.at(BEGINS - timedelta(seconds=1))
    keeper.keep()
    assert (pulling.jobs(), pulling.missing) == ([], [])
    pulling.at(BEGINS)
    assert "frozen:" in _refusal(pulling.cluster), "a freeze holds changes, and not this"
    pulling.through(keeper, until)
    (job,) = pulling.jobs()
    assert set(pulling.missing) == {0}
    (told,) = pulling.told(PULLED)
    assert sorted(told["done"]) == sorted(HOSTS)
    assert (told["snapshot"], told["job"]) == (snapshot, job["metadata"]["name"])
    assert pulling.told(MISSING) == []
    # Nothing changes by looking again, or by another worker.
    for moment in (BEGINS, STARTS - timedelta(seconds=1), OPENS):
        pulling.at(moment)
        keeper.keep()
        pulling.keeper().keep()
    (same,) = pulling.jobs()
    assert same["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]
    assert len(pulling.told(PULLED)) == 1
    pulling.at(CLOSES)
    pulling.missing.clear()
    keeper.keep()
    assert pulling.missing == [None]
    # The next day's.
    pulling.at(BEGINS + timedelta(days=1))
    pulling.through(keeper, until)
    assert len(pulling.jobs()) == 2
    assert len(pulling.told(PULLED)) == 2


def test_another_content_before_the_start_is_pulled_once_nothing_writes_any_more(
    pulling: Pulling, until: Until
) -> None:
    pulling.take()
    keeper = pulling.keeper()
    keeper.keep()
    newer = pulling.take()
    keeper = pulling.keeper()
    keeper.keep()
    assert len(pulling.jobs()) == 1
    pulling.through(keeper, until)
    pulling.through(keeper, until)
    assert len(pulling.jobs()) == 2
    assert pulling.told(PULLED)[-1]["snapshot"] == newer


def test_windows_that_want_the_same_on_the_same_nodes_share_a_job_and_each_is_told(
    pulling: Pulling, until: Until
) -> None:
    pool = pulling.ground.fleet.pools[POOL]
    (peak,) = pool.prewarm
    later = peak.model_copy(
        update={"name": "later", "recurrence": "FREQ=DAILY;BYHOUR=8;BYMINUTE=5"}
    )
    pools = {POOL: pool.model_copy(update={"prewarm": [peak, later]})}
    fleet = pulling.ground.fleet.model_copy(update={"pools": pools})
    pulling.ground = replace(pulling.ground, fleet=fleet)
    pulling.take()
    keeper = pulling.keeper()
    keeper.keep()
    pulling.at(BEGINS + timedelta(minutes=5))
    pulling.through(keeper, until)
    (job,) = pulling.jobs()
    assert {each["peak"] for each in pulling.told(PULLED)} == {"morning", "later"}
    assert {each["job"] for each in pulling.told(PULLED)} == {job["metadata"]["name"]}


def test_a_node_that_fails_is_told_and_not_tried_for_ever(
    pulling: Pulling, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kubernetes waits for longer before each further try.
    monkeypatch.setattr(restore_job, "_TRIES", 0)
    pulling.take()
    keeper = pulling.keeper()
    pulling.through(keeper, until, fails=HOSTS[1])
    assert pulling.missing[-1] == 1
    (told,) = pulling.told(MISSING)
    assert (told["done"], told["missing"]) == ([HOSTS[0]], [HOSTS[1]])
    for each in (keeper, pulling.keeper()):
        each.keep()
    assert len(pulling.jobs()) == 1
    assert len(pulling.told(MISSING)) == 1
    assert pulling.missing[-1] == 1


def test_nodes_that_are_not_done_when_the_replicas_start_are_told_until_they_are(
    pulling: Pulling, until: Until
) -> None:
    pulling.take()
    keeper = pulling.keeper()
    keeper.keep()
    keeper.keep()
    assert pulling.missing == [0]
    pulling.at(STARTS)
    keeper.keep()
    assert pulling.missing[-1] == len(HOSTS)
    pulling.through(keeper, until)
    assert pulling.missing[-1] == 0
    assert len(pulling.told(PULLED)) == 1


def test_after_the_start_nothing_is_begun(pulling: Pulling) -> None:
    pulling.take()
    pulling.at(STARTS)
    pulling.keeper().keep()
    assert pulling.jobs() == []


def test_a_job_that_hangs_is_ended_with_its_window_and_told(pulling: Pulling, until: Until) -> None:
    """Its nodes are lost: nobody says that the pods are gone."""
    pulling.take()
    keeper = pulling.keeper()

    def is_placed() -> bool:
        keeper.keep()
        return len(pulling.placed()) == len(HOSTS)

    until(is_placed)
    (job,) = pulling.jobs()
    assert job["spec"]["activeDeadlineSeconds"] == (CLOSES - BEGINS).total_seconds()
    # As if that had passed.
    path = f"{JOBS}/{job['metadata']['name']}"
    pulling.cluster.merge(path, {"spec": {"activeDeadlineSeconds": 1}})
    pulling.at(CLOSES)

    def is_told() -> bool:
        keeper.keep()
        return bool(pulling.told(MISSING))

    until(is_told)
    assert pulling.told(MISSING)[0]["missing"] == sorted(HOSTS)
    assert pulling.missing[-1] is None, "what is over is missing nowhere"


def test_a_rate_that_was_found_to_be_better_leaves_no_job_alone(
    pulling: Pulling, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling.take()
    pulling.at(BEGINS - timedelta(hours=5))
    monkeypatch.setattr(prewarm_weights, "measured_rate", lambda _: 1e6)
    keeper = pulling.keeper()
    keeper.keep()
    assert len(pulling.jobs()) == 1
    monkeypatch.undo()
    pulling.through(keeper, until)
    assert len(pulling.told(PULLED)) == 1


def test_a_cordoned_node_is_left_out_and_not_missing(pulling: Pulling, until: Until) -> None:
    pulling.take()
    node = f"/api/v1/nodes/{HOSTS[0]}"
    pulling.cluster.merge(node, {"spec": {"unschedulable": True}})
    try:
        pulling.through(pulling.keeper(), until)
    finally:
        pulling.cluster.merge(node, {"spec": {"unschedulable": None}})
    (told,) = pulling.told(PULLED)
    assert told["done"] == [HOSTS[1]]
    assert pulling.missing[-1] == 0


def test_without_a_snapshot_nothing_is_made(pulling: Pulling) -> None:
    pulling.take("another")
    pulling.keeper().keep()
    assert (pulling.jobs(), pulling.missing) == ([], [])


def test_a_snapshot_of_another_content_than_is_declared_is_not_pulled(pulling: Pulling) -> None:
    before = pulling.ground
    pulling.take()
    pulling.ground = before
    pulling.keeper().keep()
    assert (pulling.jobs(), pulling.missing) == ([], [])


def test_a_store_that_does_not_answer_is_told_and_tried_again_and_holds_up_nothing_that_runs(
    pulling: Pulling, snapshot_server: StoreServer, until: Until
) -> None:
    pulling.take()
    keeper = pulling.keeper()
    snapshot_server.stop()
    try:
        with pytest.raises(Retryable):
            keeper.keep()
    finally:
        snapshot_server.start()
    assert pulling.jobs() == []
    keeper.keep()
    assert len(pulling.jobs()) == 1
    snapshot_server.stop()

    def is_placed() -> bool:
        with suppress(Retryable):
            keeper.keep()
        return len(pulling.placed()) == len(HOSTS)

    try:
        until(is_placed)
    finally:
        snapshot_server.start()


def test_schedule_and_verification_see_what_there_is(pulling: Pulling, until: Until) -> None:
    ground = pulling.ground
    due = windows(ground.fleet, BEGINS, OPENS + timedelta(seconds=1))
    assert outlook(ground, due).snapshots == {(SITE, "llama-3.1-8b"): ""}
    snapshot = pulling.take()
    ground = pulling.ground
    due = windows(ground.fleet, BEGINS, OPENS + timedelta(seconds=1))
    assert outlook(ground, due).snapshots == {(SITE, "llama-3.1-8b"): snapshot}
    assert filled(ground.fleet, ground.state, due) == {}
    keeper = pulling.keeper()
    keeper.keep()
    (waits,) = filled(ground.fleet, ground.state, due).values()
    assert (waits.done, waits.missing, waits.waiting) == ([], [], len(HOSTS))
    pulling.through(keeper, until)
    (all_,) = filled(ground.fleet, ground.state, due).values()
    assert (sorted(all_.done), all_.waiting, all_.snapshot) == (sorted(HOSTS), 0, snapshot)


def started(pulling: Pulling) -> subprocess.Popen[bytes]:
    """A worker of its own process."""
    with (pulling.folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.contract.pulling_worker", str(pulling.folder)],
            cwd=PROJECT_ROOT,
            stderr=log,
        )


@pytest.mark.parametrize("placed", [False, True], ids=["gates-shut", "gates-open"])
def test_what_a_killed_worker_has_begun_the_next_one_ends(
    pulling: Pulling, until: Until, *, placed: bool
) -> None:
    pulling.take()
    worker = started(pulling)
    try:
        until(lambda: pulling.placed() if placed else pulling.jobs())
    finally:
        worker.kill()
        worker.wait()
    pulling.through(pulling.keeper(), until)
    assert len(pulling.jobs()) == 1
    (told,) = pulling.told(PULLED)
    assert sorted(told["done"]) == sorted(HOSTS)


def test_two_workers_make_one_job_and_tell_its_end_once(pulling: Pulling, until: Until) -> None:
    pulling.take()
    workers = [started(pulling) for _ in range(2)]

    def is_told() -> bool:
        assert all(each.poll() is None for each in workers)
        pulling.end()
        return bool(pulling.told(PULLED))

    def looks() -> list[int]:
        files = [pulling.folder / f"looks-{each.pid}" for each in workers]
        return [int(each.read_text() or 0) if each.exists() else 0 for each in files]

    try:
        until(is_told)
        before = looks()
        # The one that was looking meanwhile, too, has seen the end.
        until(lambda: all(now > then + 1 for now, then in zip(looks(), before, strict=True)))
    finally:
        for each in workers:
            each.kill()
            each.wait()
    assert len(pulling.jobs()) == 1
    assert len(pulling.told(PULLED)) == 1
    assert pulling.told(MISSING) == []


def test_the_schedule_of_an_environment_asks_its_stores_and_opens_none_that_was_never_used(
    snapshot_server: StoreServer, tmp_path: Path
) -> None:
    article = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    file = tmp_path / "fleets" / "article" / "production.yaml"
    file.parent.mkdir(parents=True)
    (file.parent / "calendars").symlink_to(article.parent / "calendars")
    peak = {"name": "morning", "recurrence": "FREQ=DAILY;BYHOUR=8", "lead_s": 600}
    peak |= {"duration_s": 3600, "replicas": {"h100": 10}}
    head = f"\npools:\n  {POOL}:\n"
    assert head in article.read_text()
    prewarm = f"    prewarm: [{json.dumps(peak)}]\n"
    file.write_text(article.read_text().replace(head, head + prewarm))
    workspace = Workspace(tmp_path)
    state = workspace.for_fleet(load_fleet(file))

    def weights() -> WeightsPull | None:
        return schedule_of(workspace, file, days="2").windows[0].weights

    unknown = weights()
    assert unknown is not None
    assert unknown.snapshot is None
    assert not state.root.exists()
    ground = Ground.open(workspace, file)
    snapshot_server.declare(ground.state, "main")
    assert weights() is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w").write_bytes(b"w")
    wish = TakeWish(tmp_path / "weights", "llama-3.1-8b")
    report = taken(ground, wish, "main", quiet)
    pinned = ground.fleet.models["llama-3.1-8b"].digest
    file.write_text(file.read_text().replace(pinned, report.digest))
    known = weights()
    assert known is not None
    assert known.snapshot == report.snapshot
    ground.close()
    nowhere = {**vars(snapshot_server.place), "endpoint": "http://127.0.0.1:1"}
    (state.site("main") / "s3.json").write_text(json.dumps(nowhere))
    (warning,) = schedule_of(workspace, file, days="2").warnings
    assert "whether main has a snapshot of llama-3.1-8b is not known" in warning
