"""Snapshots while the network and the object store do what they can: nothing good is ever lost."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff
from tests.fault_proxy import ALWAYS, Fault, FaultProxy
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, Bench, now, picture, quiet, strays

from gpufleet.edges import object_client
from gpufleet.edges.engines import resolve
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.flows.snapshots.catalogue import listing
from gpufleet.flows.snapshots.replicate import ReplicateOrder, replicate
from gpufleet.flows.snapshots.restore import RestoreOrder, restore
from gpufleet.flows.snapshots.store import SnapshotStore
from gpufleet.flows.snapshots.take import TakeOrder, take
from gpufleet.flows.snapshots.verify import VerifyOrder, verify
from gpufleet.spec.errors import Failed, FleetError, Retryable

KINDS = ("/chunks/", "/packs/", "/indexes/", "/summary", "/manifest", "/running/")


@dataclass
class Scene:
    """A good snapshot and its restored tree, a changed source, and a proxy before the stores."""

    bench: Bench
    proxy: FaultProxy
    first: str
    before: dict[str, tuple[int, bytes]]
    made: dict[tuple[str, int], SnapshotStore] = field(default_factory=dict)

    def store(self, name: str = "", port: int = 0) -> SnapshotStore:
        """A store behind the proxy, or at another port."""
        if (name, port) not in self.made:
            at = f"http://127.0.0.1:{port or self.proxy.port}"
            place = Place(at, "here", "test", "test-secret")
            prefix = f"{self.bench.folder.name}{name}"
            objects = SnapshotObjects(SnapshotPlace(place, "plain", prefix))
            self.made[name, port] = SnapshotStore(objects)
        return self.made[name, port]

    def arm(self, *faults: Fault) -> None:
        self.proxy.faults = list(faults)

    def take(self) -> str:
        order = TakeOrder(self.bench.source, "r2")
        return take(self.store(), order, self.bench.folder / "read.db", now, quiet).snapshot

    def restore(self, snapshot: str) -> None:
        order = RestoreOrder(snapshot, self.bench.out, reuse=False)
        restore(self.store(), order, quiet)

    def replicate(self, *snapshots: str) -> None:
        order = ReplicateOrder(snapshots)
        report = replicate(self.store(), self.store("-west"), order, quiet)
        if not report.good:
            raise Failed("something of it came damaged all the time")

    def check(self) -> None:
        """Every snapshot that lists is readable, the good one lists, and no tree is half there."""
        here = self.bench.store
        assert self.first in {each.id for each in listing(here).snapshots}
        for store in (here, self.store("-west", self.bench.server.port)):
            for each in listing(store).snapshots:
                assert verify(store, VerifyOrder(each.id), quiet).good
        assert picture(self.bench.out) in (self.before, picture(self.bench.source))


@pytest.fixture
def scene(
    bench: Bench, snapshot_server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    # The library waits for seconds before it asks a store again that is slow.
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    (bench.source / "model.bin").write_bytes(os.urandom(2 * MIB))
    for number in range(3):
        (bench.source / f"lora-{number}").write_bytes(os.urandom(4000))
    first = bench.take().snapshot
    bench.restore(first)
    before = picture(bench.out)
    (bench.source / "model.bin").write_bytes(os.urandom(3 * MIB))
    (bench.source / "lora-0").write_bytes(os.urandom(5000))
    with FaultProxy(snapshot_server.port) as proxy:
        yield Scene(bench, proxy, first, before)


PASSING = {
    "500s": Fault("status"),
    "slow downs": Fault("status", status=(503, "SlowDown")),
    "answers that are lost": Fault("lost answer", method="PUT|DELETE"),
    "resets": Fault("reset", method="PUT"),
    "resets in mid-body": Fault("reset", method="GET"),
    "bodies that end early": Fault("cut", method="GET"),
    "truncated bodies": Fault("short", method="GET"),
    "flipped bits": Fault("flip", method="GET"),
    "flipped bits on the way to the store": Fault("flip", method="PUT"),
    "wrong ETags": Fault("etag"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_faults_that_pass_are_outlived(scene: Scene, kind: str) -> None:
    sort = PASSING[kind]

    def arm() -> None:
        each = [Fault(sort.kind, sort.method, path, 1, sort.status) for path in KINDS]
        scene.arm(*each)

    arm()
    second = scene.take()
    met = sum(fault.hits for fault in scene.proxy.faults)
    scene.check()
    arm()
    scene.restore(second)
    met += sum(fault.hits for fault in scene.proxy.faults)
    assert picture(scene.bench.out) == picture(scene.bench.source)
    assert strays(scene.bench.folder) == []
    arm()
    scene.replicate(second, scene.first)
    met += sum(fault.hits for fault in scene.proxy.faults)
    scene.check()
    west = scene.store("-west", scene.bench.server.port)
    assert {each.id for each in listing(west).snapshots} == {scene.first, second}
    assert met >= 4


LASTING = {
    "500s": Fault("status", path="/chunks/", times=ALWAYS),
    "time-outs": Fault("silent", path="/(chunks|packs)/", times=ALWAYS),
    "resets": Fault("reset", path="/chunks/", times=ALWAYS),
    "flipped bits": Fault("flip", "GET|PUT", "/chunks/", ALWAYS),
    "expired credentials": Fault("status", times=ALWAYS, status=(400, "ExpiredToken"), after=9),
    "clock skew": Fault("status", times=ALWAYS, status=(403, "RequestTimeTooSkewed"), after=9),
    "listings that lag": Fault("lagging", "GET", "list-type", ALWAYS),
}


@pytest.mark.parametrize("kind", LASTING)
def test_faults_that_last_end_the_work_and_the_next_run_ends_well(
    scene: Scene, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_client, "_READ_S", 1)
    monkeypatch.setattr(object_client, "_ATTEMPTS", 2)
    sort = LASTING[kind]

    def arm() -> None:
        scene.arm(Fault(sort.kind, sort.method, sort.path, sort.times, sort.status, sort.after))

    def fails(work: Callable[..., object], *arguments: str) -> None:
        arm()
        with pytest.raises(FleetError) as told:
            work(*arguments)
        # What came damaged each time may be so in the store; all else may pass.
        damaged = kind == "flipped bits" and work != scene.take
        assert isinstance(told.value, Failed if damaged else Retryable)
        scene.arm()
        scene.check()

    fails(scene.take)
    second = scene.take()
    if kind != "listings that lag":
        fails(scene.restore, second)
        assert picture(scene.bench.out) == scene.before
    scene.restore(second)
    assert picture(scene.bench.out) == picture(scene.bench.source)
    fails(scene.replicate, second)
    scene.replicate(second)
    scene.check()


def test_a_full_disk_of_the_store_costs_only_the_take_that_fills_it(
    bench: Bench, tmp_path: Path
) -> None:
    small = tmp_path / "disk"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    server = StoreServer(resolve(lambda _: None, ["versitygw"]).path("versitygw"), small)
    try:
        server.start()
        ObjectStore(server.place).make_bucket("plain")
        store = SnapshotStore(SnapshotObjects(SnapshotPlace(server.place, "plain")))
        full = Bench(server, store, bench.folder)
        (bench.source / "model.bin").write_bytes(os.urandom(2 * MIB))
        good = full.take().snapshot
        (bench.source / "model.bin").write_bytes(os.urandom(20 * MIB))
        with pytest.raises(FleetError, match="the object store"):
            full.take("r2")
        assert [each.id for each in listing(store).snapshots] == [good]
        assert verify(store, VerifyOrder(good), quiet).good
    finally:
        server.stop()
        subprocess.run(["umount", str(small)], check=True)
