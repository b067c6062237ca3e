"""Anchors and states in the real object stores of two sites."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from tests.conftest import Embedded

from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.stack_states import StackStates
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import record_keeping, state_backup
from gpufleet.flows.ground import Ground
from gpufleet.flows.stacks import stacks_of
from gpufleet.spec.errors import BadInput, Retryable


@pytest.fixture
def ground(embedded: Embedded, tmp_path: Path) -> Iterator[Ground]:
    """An environment with its own database and states, and the stores of two running sites."""
    state = EnvironmentDir(tmp_path / "state").make()
    (state.root / "sites").symlink_to(embedded.state.root / "sites")
    name = f"t{datetime.now(UTC):%H%M%S%f}"
    fleet = embedded.platform.fleet.model_copy(update={"fleet": name})
    database = Database(f"sqlite:///{state.root / 'fleet.db'}")
    database.migrate()
    yield Ground(
        Workspace(PROJECT_ROOT), tmp_path / "fleet.yaml", fleet, state, database, system_clock
    )
    database.close()


def store(ground: Ground, site: str) -> ObjectStore:
    place = Place.embedded(ground.state, site)
    assert place is not None
    return ObjectStore(place)


def note(ground: Ground, count: int) -> None:
    for number in range(count):
        ground.note("tested", actor="test", number=number)


def test_a_cut_tail_is_found_although_the_database_agrees_with_itself(ground: Ground) -> None:
    note(ground, 5)
    assert record_keeping.anchor(ground) == 1
    assert record_keeping.verified(ground).is_good
    with ground.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM fleet_journal WHERE sequence > 3"))
        connection.execute(
            sa.text(
                "UPDATE fleet_journal_heads SET sequence=3, "
                "hash=(SELECT hash FROM fleet_journal WHERE sequence=3)"
            )
        )
    [finding] = record_keeping.verified(ground).findings
    assert (finding.sequence, finding.fault) == (4, "truncated")


def test_an_anchor_cannot_be_deleted_and_what_is_put_over_it_does_not_count(
    ground: Ground,
) -> None:
    note(ground, 2)
    record_keeping.anchor(ground)
    bucket = record_keeping.bucket_of(ground)
    for site in ("east", "west"):
        client = store(ground, site)._client
        [kept] = client.list_object_versions(Bucket=bucket)["Versions"]
        with pytest.raises(ClientError, match=r"AccessDenied|Locked|WORM"):
            client.delete_object(Bucket=bucket, Key=kept["Key"], VersionId=kept["VersionId"])
        forged = json.dumps({"writer": "x", "sequence": 1, "hash": "0", "at": "2026-01-01T00:00Z"})
        client.put_object(Bucket=bucket, Key=kept["Key"], Body=forged.encode())
        client.delete_object(Bucket=bucket, Key=kept["Key"])
    report = record_keeping.verified(ground)
    assert report.is_good
    assert report.anchors == 1


def test_the_same_head_is_anchored_once(ground: Ground) -> None:
    note(ground, 1)
    assert [record_keeping.anchor(ground), record_keeping.anchor(ground)] == [1, 0]


def test_one_site_without_its_store_leaves_the_anchors_of_the_other(
    ground: Ground, tmp_path: Path
) -> None:
    note(ground, 1)
    sites = tmp_path / "sites"
    for site in ("east", "west"):
        (sites / site).mkdir(parents=True)
        place = json.loads((ground.state.site(site) / "s3.json").read_text())
        if site == "west":
            place["endpoint"] = "https://127.0.0.1:9"
        (sites / site / "s3.json").write_text(json.dumps(place))
    link = ground.state.root / "sites"
    link.unlink()
    link.symlink_to(sites)
    assert record_keeping.anchor(ground) == 1
    assert record_keeping.verified(ground).anchors == 1
    place = json.loads((sites / "east" / "s3.json").read_text())
    place["endpoint"] = "https://127.0.0.1:9"
    (sites / "east" / "s3.json").write_text(json.dumps(place))
    with pytest.raises(Retryable, match="anchors cannot be read"):
        record_keeping.verified(ground)
    note(ground, 1)
    with pytest.raises(Retryable, match="no object store"):
        record_keeping.anchor(ground)


def put_state(ground: Ground, content: Mapping[str, object]) -> None:
    stack = stacks_of(ground.fleet, ground.state)[0]
    StackStates(ground.state).replace(stack, json.dumps(content).encode(), system_clock())


def test_each_state_is_kept_once_and_any_can_be_brought_back(ground: Ground) -> None:
    stack = stacks_of(ground.fleet, ground.state)[0]
    first, second = {"checkpoint": {"n": 1}}, {"checkpoint": {"n": 2}}
    put_state(ground, first)
    assert state_backup.back_up(ground) == [stack.shown]
    assert state_backup.back_up(ground) == []
    put_state(ground, second)
    state_backup.back_up(ground)
    kept = [row for row in state_backup.versions(ground) if row.site == "east"]
    assert len(kept) == 2
    file = StackStates(ground.state).file(stack)
    shown = state_backup.restore(ground, stack.shown, kept[-1].version, apply=False)
    assert json.loads(file.read_text()) == second
    assert shown.version == kept[-1].version
    state_backup.restore(ground, stack.shown, kept[-1].version, apply=True)
    assert json.loads(file.read_text()) == first
    replaced = max(file.parent.glob("*.before-*"))
    assert json.loads(replaced.read_text()) == second


def test_a_lost_state_comes_back_from_the_other_site(ground: Ground) -> None:
    stack = stacks_of(ground.fleet, ground.state)[0]
    put_state(ground, {"checkpoint": {"n": 1}})
    state_backup.back_up(ground)
    StackStates(ground.state).file(stack).unlink()
    state_backup.restore(ground, stack.shown, "latest", apply=True)
    content = StackStates(ground.state).read(stack)
    assert content is not None
    assert json.loads(content) == {"checkpoint": {"n": 1}}


@pytest.mark.parametrize(
    ("stack", "version", "what"),
    [("pools mars", "latest", "no such stack"), ("platform east", "v0", "no such version")],
)
def test_what_was_never_kept_is_bad_input(
    ground: Ground, stack: str, version: str, what: str
) -> None:
    with pytest.raises(BadInput, match=what):
        state_backup.restore(ground, stack, version, apply=True)


def test_a_locked_object_stays_as_long_as_was_asked(ground: Ground) -> None:
    east = store(ground, "east")
    bucket = record_keeping.bucket_of(ground)
    east.make_locked_bucket(bucket)
    until = datetime.now(UTC) + timedelta(hours=1)
    east.put_locked(bucket, "a", b"x", until)
    held = east._client.get_object_retention(Bucket=bucket, Key="a")["Retention"]
    assert held["Mode"] == "COMPLIANCE"
    assert abs(held["RetainUntilDate"] - until) < timedelta(seconds=1)
