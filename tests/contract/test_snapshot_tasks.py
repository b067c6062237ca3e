"""What people ask of snapshots: plans, lists, differences, the journal, and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conftest import Until, small_fleet
from tests.object_stores import StoreServer
from tests.snapshot_bench import MIB, now, picture, quiet

from gpufleet.core.snapshots.layout import REMOVED, snapshot_key
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots import requests
from gpufleet.flows.snapshots.catalogue import between, listing, shown
from gpufleet.flows.snapshots.requests import TakeWish
from gpufleet.flows.snapshots.restore import RestoreOrder
from gpufleet.spec.errors import BadInput
from gpufleet.tasks import snapshot_view


@pytest.fixture
def ground(snapshot_server: StoreServer, tmp_path: Path) -> Iterator[Ground]:
    """An environment of its own name, with two sites, of which one has an object store."""
    state = EnvironmentDir(tmp_path / "state").make()
    snapshot_server.declare(state, "east")
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:]
    fleet = small_fleet("east", "west").model_copy(update={"fleet": f"{name}{os.getpid()}"})
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    file = tmp_path / "fleet.yaml"
    yield Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, system_clock)
    database.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    (made / "model.bin").write_bytes(os.urandom(70 * MIB))
    (made / "config.json").write_text("{}")
    return made


def test_a_plan_changes_nothing(ground: Ground, source: Path) -> None:
    plan = requests.planned_take(ground, TakeWish(source, "r1"), "")
    assert (plan.files, plan.bytes_to_read) == (2, 70 * MIB + 2)
    store = requests.store_of(ground)
    assert not store.exists()
    assert listing(store).snapshots == ()
    taken = requests.taken(ground, TakeWish(source, "r1"), "", quiet)
    assert requests.planned_take(ground, TakeWish(source, "r1"), "").bytes_to_read == 0
    order = RestoreOrder(taken.snapshot, source.parent / "out")
    assert not requests.planned_restore(ground, order, "").replaces
    assert not order.to.exists()


def test_a_take_is_locked_and_it_and_its_restore_are_in_the_journal(
    ground: Ground, source: Path
) -> None:
    taken = requests.taken(ground, TakeWish(source, "r1"), "east", quiet)
    objects = requests.store_of(ground).objects
    keep = timedelta(days=ground.fleet.snapshots.daily)
    for each in objects.objects("chunks/"):
        until = objects.locked_until(each.key)
        assert until is not None
        assert until > now() + keep - timedelta(hours=1)
    order = RestoreOrder(taken.snapshot, source.parent / "out")
    assert requests.planned_restore(ground, order, "").predicted_s is None
    requests.restored(ground, order, "", quiet)
    assert picture(order.to) == picture(source)
    plan = requests.planned_restore(ground, order, "")
    assert plan.predicted_s is not None
    assert plan.replaces
    told = [(record.event, record.target) for record in ground.journal.records()]
    assert told == [("snapshot.taken", taken.snapshot), ("snapshot.restored", taken.snapshot)]


def test_snapshots_list_newest_first_without_the_removed_ones(ground: Ground, source: Path) -> None:
    first = requests.taken(ground, TakeWish(source, "r1"), "", quiet)
    (source / "config.json").write_text("{ }")
    (source / "new").symlink_to("config.json")
    second = requests.taken(ground, TakeWish(source, "r2"), "", quiet)
    store = requests.store_of(ground)
    both = {each.id for each in listing(store).snapshots}
    assert both == {first.snapshot, second.snapshot}
    assert [each.id for each in listing(store, "r2").snapshots] == [second.snapshot]
    found = between(store, first.snapshot, second.snapshot)
    assert (found.added, found.changed, found.removed) == (("new",), ("config.json",), ())
    summary, manifest = shown(store, second.snapshot)
    assert summary.files == len(manifest.files) == 2
    store.objects.put(snapshot_key(first.snapshot, REMOVED), b"")
    assert [each.id for each in listing(store).snapshots] == [second.snapshot]


def test_a_site_without_a_store_and_a_choice_of_several_are_told(
    ground: Ground, snapshot_server: StoreServer
) -> None:
    with pytest.raises(BadInput, match="no object store yet"):
        requests.store_of(ground, "west")
    with pytest.raises(BadInput, match="no such site"):
        requests.store_of(ground, "north")
    snapshot_server.declare(ground.state, "west")
    with pytest.raises(BadInput, match="several sites"):
        requests.store_of(ground)


def test_the_facts_that_machines_read(
    ground: Ground, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot_view.do_take(ground, TakeWish(source, "r1"), "", json=True)
    taken = json.loads(capsys.readouterr().out)
    assert {"snapshot", "bytes_read", "bytes_stored", "seconds"} <= taken.keys()
    order = snapshot_view.restore_wish(taken["snapshot"], str(source.parent / "out"), "")
    snapshot_view.do_restore(ground, order, "", json=True)
    assert {"bytes_fetched", "seconds"} <= json.loads(capsys.readouterr().out).keys()
    wish = snapshot_view.verify_wish(taken["snapshot"], "50%", "s")
    assert snapshot_view.do_verify(ground, wish, "", json=True).good
    assert json.loads(capsys.readouterr().out)["good"] is True
    for wrong in ("0%", "101%", "-1", "half"):
        with pytest.raises(BadInput, match="no share"):
            snapshot_view.verify_wish("x", wrong, "")


TAKE = """
import sys
from pathlib import Path
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import TakeWish
from gpufleet.spec.load import load_fleet
from gpufleet.tasks import snapshot_view
from invoke.exceptions import Exit
from tests.conftest import small_fleet
folder, name, source = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
fleet = small_fleet("east", "west").model_copy(update={"fleet": name})
database = Database(f"sqlite:///{folder / 'fleet.db'}")
state = EnvironmentDir(folder / "state")
ground = Ground(Workspace(PROJECT_ROOT), folder / "f.yaml", fleet, state, database, system_clock)
try:
    snapshot_view.do_take(ground, TakeWish(source, "r1"), "", json=False)
except Exit as left:
    print(left.message)
    sys.exit(left.code)
"""


def test_ctrl_c_tells_how_things_stand_and_the_same_command_goes_on(
    ground: Ground, source: Path, tmp_path: Path, until: Until
) -> None:
    (source / "more.bin").write_bytes(os.urandom(300 * MIB))
    store = requests.store_of(ground, make=True)
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(tmp_path), ground.fleet.fleet, str(source)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(store.objects.objects("chunks/")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from there" in told
    assert not listing(store).snapshots
    assert not list(store.objects.objects("running/"))
    taken = requests.taken(ground, TakeWish(source, "r1"), "", quiet)
    assert taken.bytes_read < taken.bytes_total
    order = RestoreOrder(taken.snapshot, tmp_path / "out")
    requests.restored(ground, order, "", quiet)
    assert picture(order.to) == picture(source)
