"""The weights of a pool's pod: pinned by digest, from the node's cache or the store."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.killed import Fuse, is_killed, let_steps_kill
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, fill, now, picture, quiet, strays

from gpufleet.components.pod_template import pod_spec
from gpufleet.core.serving import pools_at
from gpufleet.core.snapshots.layout import SUMMARY, snapshot_key
from gpufleet.core.vocabulary import SNAPSHOT_KEY_VARIABLE
from gpufleet.core.weights import Source
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.snapshots.keys import key_for
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.flows.snapshots.weights import WeightsOrder, bring_weights, planned_weights
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.snapshots import TakeReport
from gpufleet.spec.weights import Way, WeightsReport

NOBODY = "http://127.0.0.1:1"
NO_DIGEST = "sha256:" + "0" * 64


@dataclass
class Pod:
    """A store, the files of a revision, and the folders of a pod on a node."""

    store: SnapshotStore
    place: Place
    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def cache(self) -> Path:
        return self.folder / "node" / "chat"

    @property
    def to(self) -> Path:
        return self.folder / "models" / "revision"

    def take(self, revision: str = "chat") -> TakeReport:
        order = TakeOrder(self.source, revision)
        return take(self.store, order, self.folder / "read.db", now, quiet)

    def order(self, digest: str) -> WeightsOrder:
        source = Source(self.store.objects.bucket, "chat")
        return WeightsOrder(source, digest, self.to, self.cache.parent)

    def bring(self, digest: str) -> WeightsReport:
        return bring_weights(self.order(digest), self.place)

    def fill_node(self, taken: TakeReport) -> None:
        """As the Job of `snapshot.restore --nodes` does."""
        self.cache.parent.mkdir(exist_ok=True)
        restore(self.store, RestoreOrder(taken.snapshot, self.cache, readable=True), quiet)


@pytest.fixture
def pod(snapshot_server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.delenv(SNAPSHOT_KEY_VARIABLE, raising=False)
    name = "".join(each for each in tmp_path.name if each.isalnum())[-30:]
    bucket = f"{name}{os.getpid()}".lower()
    ObjectStore(snapshot_server.place).make_bucket(bucket)
    place = snapshot_server.place
    made = Pod(SnapshotStore(SnapshotObjects(SnapshotPlace(place, bucket))), place, tmp_path)
    made.source.mkdir()
    made.to.parent.mkdir()
    fill(made.source)
    return made


def contents(root: Path) -> dict[str, bytes]:
    return {path: content for path, (_, content) in picture(root).items()}


def test_without_a_cache_they_come_from_the_store(pod: Pod) -> None:
    taken = pod.take()
    plan = planned_weights(pod.order(taken.digest), pod.place)
    assert (plan.way, plan.snapshot) == (Way.STORE, taken.snapshot)
    assert not pod.to.exists()
    report = pod.bring(taken.digest)
    assert (report.way, report.snapshot) == (Way.STORE, taken.snapshot)
    assert report.bytes_fetched > 0
    assert contents(pod.to) == contents(pod.source)
    assert strays(pod.to.parent) == []


def test_a_second_run_changes_nothing_and_needs_no_store(pod: Pod) -> None:
    taken = pod.take()
    pod.bring(taken.digest)
    before = {each: each.lstat() for each in pod.to.parent.rglob("*")}
    gone = replace(pod.place, endpoint=NOBODY)
    assert bring_weights(pod.order(taken.digest), gone).way is Way.THERE
    assert planned_weights(pod.order(taken.digest), gone).way is Way.THERE
    assert {each: each.lstat() for each in pod.to.parent.rglob("*")} == before


def test_what_is_whole_in_the_node_s_cache_is_linked_and_nothing_is_fetched(pod: Pod) -> None:
    taken = pod.take()
    pod.fill_node(taken)
    assert planned_weights(pod.order(taken.digest), pod.place).way is Way.CACHE
    assert not pod.to.is_symlink()
    report = pod.bring(taken.digest)
    assert (report.way, report.bytes_fetched) == (Way.CACHE, 0)
    assert pod.to.readlink() == pod.cache
    assert contents(pod.to) == contents(pod.source)
    gone = replace(pod.place, endpoint=NOBODY)
    assert bring_weights(pod.order(taken.digest), gone).way is Way.THERE


def rot(cache: Path) -> None:
    """One byte of a large file, and its times as they were."""
    file = cache / "model.safetensors"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[9 * MIB] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def lose(cache: Path) -> None:
    (cache / "a" / "run.sh").unlink()


def add(cache: Path) -> None:
    (cache / "tokenizer.py").write_text("import os")


def bend(cache: Path) -> None:
    (cache / "latest").unlink()
    (cache / "latest").symlink_to("a/secret")


@pytest.mark.parametrize("harm", [rot, lose, add, bend])
def test_a_damaged_cache_is_told_and_only_what_it_lacks_is_fetched(
    pod: Pod, harm: Callable[[Path], None]
) -> None:
    taken = pod.take()
    pod.fill_node(taken)
    harm(pod.cache)
    report = pod.bring(taken.digest)
    assert report.way is Way.STORE
    assert report.cache
    assert not pod.to.is_symlink()
    assert contents(pod.to) == contents(pod.source)
    assert report.bytes_local > report.bytes_total / 2
    assert report.bytes_fetched < 5 * MIB


def test_a_cache_that_changes_after_the_first_run_is_left_by_the_next(pod: Pod) -> None:
    taken = pod.take()
    pod.fill_node(taken)
    pod.bring(taken.digest)
    rot(pod.cache)
    assert pod.bring(taken.digest).way is Way.STORE
    assert not pod.to.is_symlink()
    assert contents(pod.to) == contents(pod.source)
    assert pod.bring(taken.digest).way is Way.THERE


def test_a_cache_of_another_digest_is_not_taken_for_this_one(pod: Pod) -> None:
    old = pod.take()
    (pod.source / "noise.bin").write_bytes(os.urandom(3 * MIB))
    new = pod.take()
    pod.fill_node(new)
    assert old.digest != new.digest
    report = pod.bring(old.digest)
    assert (report.way, report.snapshot) == (Way.STORE, old.snapshot)
    assert pod.bring(new.digest).way is Way.STORE
    assert contents(pod.to) == contents(pod.source)


def test_the_same_folder_has_the_same_digest_whenever_it_is_taken(pod: Pod) -> None:
    first = pod.take()
    os.utime(pod.source / "empty", (1, 1))
    second = pod.take("other")
    assert first.snapshot != second.snapshot
    assert first.digest == second.digest
    (pod.source / "a" / "run.sh").chmod(0o700)
    assert pod.take().digest != first.digest


def test_a_digest_that_no_snapshot_has_is_told_with_those_that_there_are(pod: Pod) -> None:
    taken = []
    for number in range(7):
        (pod.source / "number").write_text(str(number))
        taken.append(pod.take())
    pod.take("another")
    with pytest.raises(BadInput, match="no snapshot of `chat` has the digest") as refused:
        pod.bring(NO_DIGEST)
    told = str(refused.value)
    named = [each for each in taken if f"{each.snapshot} {each.digest}" in told]
    assert len(named) == 5
    assert "2 older ones" in told
    assert "fleet file" in told
    assert "snapshot.take --revision chat" in told
    assert list(pod.to.parent.iterdir()) == []


def test_a_revision_without_a_snapshot_and_a_bucket_without_a_store_are_told(pod: Pod) -> None:
    with pytest.raises(BadInput, match="no snapshot store"):
        pod.bring(NO_DIGEST)
    pod.take("another")
    with pytest.raises(BadInput, match="there is no snapshot of `chat`"):
        pod.bring(NO_DIGEST)


def test_an_older_summary_without_a_digest_is_found_by_its_manifest(pod: Pod) -> None:
    taken = pod.take()
    key = snapshot_key(taken.snapshot, SUMMARY)
    summary = json.loads(pod.store.objects.get(key))
    assert summary.pop("digest") == taken.digest
    pod.store.objects.put(key, json.dumps(summary).encode())
    with pytest.raises(BadInput, match=taken.digest):
        pod.bring(NO_DIGEST)
    assert pod.bring(taken.digest).snapshot == taken.snapshot


def test_a_summary_that_claims_a_digest_which_its_manifest_has_not_does_not_count(
    pod: Pod,
) -> None:
    taken = pod.take()
    key = snapshot_key(taken.snapshot, SUMMARY)
    forged = json.loads(pod.store.objects.get(key)) | {"digest": NO_DIGEST}
    pod.store.objects.put(key, json.dumps(forged).encode())
    with pytest.raises(BadInput, match="has the digest"):
        pod.bring(NO_DIGEST)


def test_one_that_was_found_damaged_is_left_for_an_older_one_of_the_same_digest(pod: Pod) -> None:
    older = pod.take()
    newer = pod.take()
    while newer.snapshot == older.snapshot:
        newer = pod.take()
    pod.store.objects.put(snapshot_key(newer.snapshot, "verdict"), b'{"good": false}')
    assert pod.bring(older.digest).snapshot == older.snapshot


def test_a_lost_chunk_a_silent_store_and_a_missing_folder_are_told_apart(pod: Pod) -> None:
    taken = pod.take()
    with pytest.raises(BadInput, match="folder above"):
        bring_weights(replace(pod.order(taken.digest), to=pod.folder / "no" / "where"), pod.place)
    with pytest.raises(Retryable, match="does not answer"):
        bring_weights(pod.order(taken.digest), replace(pod.place, endpoint=NOBODY))
    for each in list(pod.store.objects.objects("chunks/"))[:1]:
        pod.store.objects.delete(each.key)
    with pytest.raises(Failed):
        pod.bring(taken.digest)
    assert not pod.to.exists()
    assert not verify(pod.store, VerifyOrder(taken.snapshot), quiet).good


def test_every_user_can_read_what_was_brought_and_what_is_in_a_node_s_cache(pod: Pod) -> None:
    taken = pod.take()
    pod.bring(taken.digest)
    pod.fill_node(taken)
    for root in (pod.to, pod.cache):
        for path, (mode, _) in picture(root).items():
            if not (root / path).is_symlink():
                assert mode & 0o444 == 0o444, path
                assert (root / path).is_file() or mode & 0o555 == 0o555, path
        assert (root / "a" / "run.sh").stat().st_mode & 0o777 == 0o755
        assert root.stat().st_mode & 0o555 == 0o555


def test_one_that_is_killed_anywhere_leaves_no_half_tree_and_the_next_one_ends_it(
    pod: Pod,
) -> None:
    for each in pod.source.glob("a/lora-*"):
        each.unlink()
    (pod.source / "noise.bin").unlink()
    taken = pod.take()
    pod.fill_node(taken)
    rot(pod.cache)
    after, kills = contents(pod.source), 0

    def work() -> None:
        let_steps_kill(Fuse(kills))
        pod.bring(taken.digest)

    while is_killed(work):
        kills += 7
        assert not pod.to.exists() or contents(pod.to) == after
    assert kills > 20
    assert contents(pod.to) == after
    assert pod.bring(taken.digest).way is Way.THERE
    assert strays(pod.to.parent) == []


def test_the_key_of_an_encrypted_store_is_the_one_that_the_variable_names(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pod.folder / "key"
    file.write_text("ab" * 32)
    file.chmod(0o600)
    monkeypatch.setenv(SNAPSHOT_KEY_VARIABLE, str(file))
    key = key_for("k1.", where="")
    pod.store = SnapshotStore(pod.store.objects, key)
    taken = pod.take()
    assert pod.bring(taken.digest).way is Way.STORE
    assert contents(pod.to) == contents(pod.source)
    (pod.folder / "again").mkdir()
    order = replace(pod.order(taken.digest), to=pod.folder / "again" / "revision")
    monkeypatch.delenv(SNAPSHOT_KEY_VARIABLE)
    with pytest.raises(BadInput, match="encrypted with the key `k1") as refused:
        bring_weights(order, pod.place)
    assert SNAPSHOT_KEY_VARIABLE in str(refused.value)
    file.write_text("cd" * 32)
    monkeypatch.setenv(SNAPSHOT_KEY_VARIABLE, str(file))
    with pytest.raises(BadInput, match="the store has the key"):
        bring_weights(order, pod.place)


def test_what_a_pool_s_pod_runs_brings_its_weights(pod: Pod) -> None:
    taken = pod.take()
    pod.fill_node(taken)
    fleet = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
    declared = f"s3://{pod.store.objects.bucket}/chat"
    pool = next(each for site in fleet.sites for each in pools_at(fleet, site))
    model = fleet.models[pool.model_name].model_copy(
        update={"digest": taken.digest, "source": declared}
    )
    fleet = fleet.model_copy(update={"models": {**fleet.models, pool.model_name: model}})
    pool = next(each for each in pools_at(fleet, pool.site) if each.name == pool.name)
    (container,) = pod_spec(pool, fleet.images.gpufleet)["initContainers"]
    folders = {"/models/": f"{pod.to.parent}/", "/node-cache": str(pod.cache.parent)}
    arguments = container["args"]
    for inside, here in folders.items():
        arguments = [each.replace(f"={inside}", f"={here}") for each in arguments]
    given = {
        "AWS_ACCESS_KEY_ID": str(pod.place.access_key),
        "AWS_SECRET_ACCESS_KEY": str(pod.place.secret_key),
        "AWS_ENDPOINT_URL_S3": pod.place.endpoint,
        "AWS_REGION": pod.place.region,
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gpufleet.tasks", *arguments, "--json"],
        cwd=PROJECT_ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["way"] == "cache"
    assert contents(pod.to) == contents(pod.source)
