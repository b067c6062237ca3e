"""What gpufleet knows is lost in a drill, and comes back beside it: real stores and databases."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.contract.protected_grounds import next_second, note

from gpufleet.core.drills.records import DATABASE_LOST, STATE_LOST
from gpufleet.edges.database import Database
from gpufleet.edges.database_copy import kind_of
from gpufleet.edges.database_spare import restored_spare
from gpufleet.edges.stack_states import PLATFORM, POOLS, Stack, StackStates
from gpufleet.flows import access
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.database_lost import DatabaseLost
from gpufleet.flows.drills.kept_states import kept_states, newest_readable
from gpufleet.flows.drills.record_plans import records_lost
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.drills.state_lost import SpareBackend, StateLost
from gpufleet.flows.ground import Ground
from gpufleet.flows.protection import protect
from gpufleet.flows.stacks import stacks_of
from gpufleet.flows.state_backup import back_up
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.drills import DrillPlan, DrillReport, Outlook, Phase
from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.protection import DatabaseKind
from gpufleet.spec.reports import ResourceChange, StackPreview

FLOW = "drill-1"
OUTLOOK = Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[])


def plan(ground: Ground, scenario: str, target: str) -> DrillPlan:
    return DrillPlan(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        fleet_digest=f"sha256:{'0' * 64}",
        scenario=scenario,
        target=target,
        use_cases=list(ground.fleet.use_cases),
        lost=[],
        placed=[],
        unheld={},
        notes=[],
        outlook=OUTLOOK,
    )


def database_lost(ground: Ground) -> DatabaseLost:
    stage = Stage(ground, FLOW, DATABASE_LOST.name)
    return DatabaseLost(ground, plan(ground, DATABASE_LOST.name, "database"), stage)


def site_of(ground: Ground) -> str:
    return next(iter(ground.fleet.sites))


def state_is_lost(ground: Ground) -> StateLost:
    stage = Stage(ground, FLOW, STATE_LOST.name)
    return StateLost(ground, plan(ground, STATE_LOST.name, f"pools@{site_of(ground)}"), stage)


def brought_back(ground: Ground) -> str:
    """What a database that is lost now comes back as."""
    script = database_lost(ground)
    script.fail()
    return script.restore([], lambda _: None)


def issue(ground: Ground) -> None:
    name, case = next(iter(ground.fleet.use_cases.items()))
    access.issue(ground, KeyRequest(team=case.team, use_cases=[name], expires_in_s=600))


def databases(ground: Ground) -> list[str]:
    """Those on the server of a PostgreSQL database; none of another kind."""
    if kind_of(ground.database) is DatabaseKind.SQLITE:
        return []
    listed = sa.text("SELECT datname FROM pg_database WHERE datname LIKE 'gpufleet_spare_%'")
    return ground.database.read(lambda c: [row[0] for row in c.execute(listed)])


def test_a_database_that_was_lost_comes_back_with_its_keys_and_journal(ground: Ground) -> None:
    note(ground, 20)
    issue(ground)
    at = protect(ground).at
    # What is written since is lost, and no fault of what came back.
    issue(ground)
    note(ground, 3)
    script, doubts = database_lost(ground), list[str]()
    fact, before = script.fail(), len(ground.journal.latest("test.noted", 100))
    told = script.notice(fact, doubts.append)
    assert "of 1 journals" in told
    assert int(told.split()[4]) >= 21
    assert "protected set" in script.choose(fact)
    restored = script.restore([], doubts.append)
    assert doubts == []
    assert "verify to 1 heads, 1 keys, 0 open flows" in restored
    assert "fleet_journal 2" in restored
    failed_at = at + timedelta(seconds=90)
    assert script.lost_s(fact, failed_at) == pytest.approx(90, abs=2)
    assert script.lost_s(fact, at - timedelta(seconds=90)) == 0
    # The environment's own was only read.
    assert len(ground.journal.latest("test.noted", 100)) == before
    assert databases(ground) == []


def test_a_set_that_is_taken_after_the_failure_comes_too_late(ground: Ground) -> None:
    note(ground, 2)
    first = protect(ground)
    script = database_lost(ground)
    fact = script.fail()
    note(ground, 2)
    next_second()
    later = protect(ground)
    (at_the_failure,), (too_late,) = first.snapshots.values(), later.snapshots.values()
    assert too_late != at_the_failure
    assert at_the_failure in script.choose(fact)
    assert at_the_failure in script.restore([], lambda _: None)
    assert script.lost_s(fact, first.at + timedelta(seconds=30)) == pytest.approx(30, abs=2)


def test_a_key_that_did_not_come_back_is_a_drill_that_failed(ground: Ground) -> None:
    protect(ground)
    issue(ground)
    later = next(iter(access.listed(ground)))
    statement = sa.text("UPDATE fleet_api_keys SET created_at = '2020-01-01T00:00:00.000000+00:00'")
    ground.database.write(lambda connection: connection.execute(statement))
    with pytest.raises(Failed, match="a gateway key did not come back") as failed:
        brought_back(ground)
    assert later.id in failed.value.where
    assert databases(ground) == []


def test_a_set_whose_journal_was_tampered_with_does_not_come_back_as_good(
    ground: Ground,
) -> None:
    note(ground, 5)
    gone = sa.text("DELETE FROM fleet_journal WHERE sequence = 3")
    ground.database.write(lambda connection: connection.execute(gone))
    protect(ground)
    with pytest.raises(Failed, match="its journal does not verify"):
        brought_back(ground)


def test_without_a_protected_set_there_is_nothing_to_drill(ground: Ground) -> None:
    with pytest.raises(BadInput, match="there is no protected set"):
        records_lost(DATABASE_LOST, ground, "database", free(ground))
    protect(ground)
    told = records_lost(DATABASE_LOST, ground, "database", free(ground))
    assert told.placed == []
    assert told.lost
    assert set(told.use_cases) <= set(ground.fleet.use_cases)


def test_an_older_set_than_the_objective_allows_is_said_before_the_drill(ground: Ground) -> None:
    protect(ground)
    later = replace(ground, clock=lambda: ground.clock() + timedelta(days=30))
    remedies = records_lost(DATABASE_LOST, later, "database", free(ground)).outlook.remedies
    assert any("dr.protect" in each for each in remedies)
    now = records_lost(DATABASE_LOST, ground, "database", free(ground)).outlook.remedies
    assert not any("dr.protect" in each for each in now)


def test_a_database_that_a_killed_drill_left_goes_with_its_stage(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind_of(ground.database) is DatabaseKind.SQLITE:
        pytest.skip("one of SQLite is a file of the drill")
    monkeypatch.setattr(stages, "embedded_sites", lambda _: [])
    protect(ground)
    script = database_lost(ground)
    script.fail()
    script.restore([], lambda _: None)
    dump = script.folder / "database" / "database" / "fleet.dump"
    with closing(restored_spare(ground.database, FLOW, dump)):
        assert len(databases(ground)) == 1
    ground.drills.begin(
        DrillReport(
            flow=FLOW,
            scenario=DATABASE_LOST.name,
            target="database",
            actor="mara",
            begun_at=ground.clock(),
            outlook=OUTLOOK,
        )
    )
    script.stage.strike()
    assert databases(ground) == []
    assert not script.folder.exists()


def test_who_may_make_no_database_is_told_so(ground: Ground, tmp_path: Path) -> None:
    if kind_of(ground.database) is DatabaseKind.SQLITE:
        pytest.skip("any user may write a file")
    role = f"plain_{tmp_path.name[-8:].replace('-', '_')}"
    statements = (f"CREATE ROLE {role} LOGIN PASSWORD 'plain'", f"DROP ROLE {role}")
    make, remove = (partial(run_alone, ground.database, each) for each in statements)
    make()
    try:
        url = ground.database.url.set(username=role, password="plain")
        plain = Database(url.render_as_string(hide_password=False))
        with closing(plain), pytest.raises(Failed, match="permission denied to create database"):
            restored_spare(plain, FLOW, tmp_path / "none.dump")
    finally:
        remove()


def run_alone(database: Database, statement: str) -> None:
    """Outside of a transaction."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)


def free(ground: Ground) -> dict[str, list[int]]:
    groups = ground.fleet.node_groups
    return {name: [group.gpus_per_node] * group.nodes for name, group in groups.items()}


# Pulumi's state


def state(replicas: int, minute: int) -> bytes:
    """A stack with one resource, updated at some minute."""
    resource = {"urn": "urn:pulumi:x::y::z::w", "type": "x:y:Z", "inputs": {"replicas": replicas}}
    latest = {"manifest": {"time": f"2026-03-01T10:{minute:02d}:00+00:00"}, "resources": [resource]}
    return json.dumps({"version": 3, "checkpoint": {"latest": latest}}).encode()


def write(ground: Ground, replicas: int, minute: int) -> None:
    """Every stack of the environment is updated."""
    states = StackStates(ground.state)
    for stack in stacks_of(ground.fleet, ground.state):
        states.file(stack).parent.mkdir(parents=True, exist_ok=True)
        states.file(stack).write_bytes(state(replicas, minute))


@pytest.fixture
def previews(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Previews by what a backend holds: of a stack, everything that it does not know is made."""
    asked: list[tuple[str, bool]] = []

    def previewed(
        backend: SpareBackend, stacks: Sequence[Stack], *, refreshed: bool = False
    ) -> list[StackPreview]:
        asked.append((backend.folder.name, refreshed))
        found = []
        for stack in stacks:
            file = backend.folder / f"pulumi/state/.pulumi/stacks/gpufleet-{stack.project}"
            kept = json.loads((file / f"{stack.name}.json").read_text())
            known = len(kept["checkpoint"]["latest"]["resources"])
            change = ResourceChange(action="create", kind="Z", name="w", fields=[])
            found.append(
                StackPreview(stack=stack.shown, changes=[] if known else [change], same=known)
            )
        return found

    monkeypatch.setattr(SpareBackend, "previews", previewed)
    return asked


def test_a_state_that_was_lost_comes_back_and_nothing_is_made_again(
    ground: Ground, previews: list[tuple[str, bool]]
) -> None:
    write(ground, 1, 1)
    back_up(ground)
    next_second()
    write(ground, 2, 2)
    back_up(ground)
    live = files(ground)
    script, doubts = state_is_lost(ground), list[str]()
    fact = script.fail()
    assert "makes 1 resources" in script.notice(fact, doubts.append)
    assert "kept after an update" in script.choose(fact)
    told = script.restore([], doubts.append)
    assert doubts == []
    assert "that of 2026-03-01 10:01:00 is told to be older" in told
    assert "beside the cluster: 1 the same, 0 to change" in told
    assert previews == [("lost", False), ("restored", False), ("restored", True)]
    # It came back as it was: nothing is lost, however old it is.
    assert script.lost_s(fact, ground.clock() + timedelta(hours=1)) == 0
    assert files(ground) == live


def test_a_state_that_is_kept_after_the_failure_comes_too_late(
    ground: Ground, previews: list[tuple[str, bool]]
) -> None:
    write(ground, 1, 1)
    back_up(ground)
    next_second()
    script = state_is_lost(ground)
    fact = script.fail()
    next_second()
    write(ground, 2, 2)
    back_up(ground)
    assert script.choose(fact).count("kept after an update") == 1
    assert "no older state was kept" in script.restore([], lambda _: None)
    assert previews


def test_a_state_that_changed_since_it_was_kept_is_lost_for_its_age(
    ground: Ground, previews: list[tuple[str, bool]]
) -> None:
    write(ground, 1, 1)
    at = protect(ground).at
    write(ground, 2, 2)
    script = state_is_lost(ground)
    fact = script.fail()
    assert "of the protected set" in script.choose(fact)
    told = script.restore([], lambda _: None)
    assert "no older state was kept" in told
    assert script.lost_s(fact, at + timedelta(seconds=50)) == pytest.approx(50, abs=2)
    assert previews


def test_the_newest_state_is_taken_whether_kept_after_an_update_or_protected(
    ground: Ground, tmp_path: Path
) -> None:
    write(ground, 1, 1)
    back_up(ground)
    next_second()
    write(ground, 2, 2)
    protect(ground)
    pools = Stack(POOLS, ground.fleet.slug, site_of(ground))
    first, second = kept_states(ground, pools, tmp_path)
    assert "protected set" in first.source
    assert (first.read(), second.read()) == (state(2, 2), state(1, 1))


@pytest.mark.parametrize(
    ("lost", "restored", "doubt"),
    [
        ({}, {}, "does not tell that its state is lost"),
        ({"create": 1}, {"create": 1}, "would make w again"),
        ({"create": 1}, {"delete": 1}, "would make w again"),
        ({"create": 1}, {"update": 1}, ""),
    ],
)
def test_a_preview_that_does_not_agree_keeps_a_drill_from_being_met(
    ground: Ground,
    monkeypatch: pytest.MonkeyPatch,
    lost: Mapping[str, int],
    restored: Mapping[str, int],
    doubt: str,
) -> None:
    def previewed(
        backend: SpareBackend, stacks: Sequence[Stack], *, refreshed: bool = False
    ) -> list[StackPreview]:
        del refreshed
        wanted = lost if backend.folder.name == "lost" else restored
        changes = [ResourceChange(action=a, kind="Z", name="w", fields=[]) for a in wanted]
        same = 0 if backend.folder.name == "lost" else 1
        return [StackPreview(stack=each.shown, changes=changes, same=same) for each in stacks]

    monkeypatch.setattr(SpareBackend, "previews", previewed)
    write(ground, 1, 1)
    back_up(ground)
    script, doubts = state_is_lost(ground), list[str]()
    script.notice(script.fail(), doubts.append)
    script.restore([], doubts.append)
    assert any(doubt in each for each in doubts) if doubt else doubts == []


def test_a_stale_state_that_does_not_say_so_keeps_a_drill_from_being_met(
    ground: Ground, previews: list[tuple[str, bool]]
) -> None:
    write(ground, 1, 5)
    back_up(ground)
    next_second()
    write(ground, 2, 5)
    back_up(ground)
    script, doubts = state_is_lost(ground), list[str]()
    script.fail()
    script.restore([], doubts.append)
    assert any("is not told from the newest" in each for each in doubts)
    assert previews


def test_what_has_no_state_or_none_that_was_kept_is_not_drilled(ground: Ground) -> None:
    target = f"pools@{site_of(ground)}"
    with pytest.raises(BadInput, match="has no state"):
        records_lost(STATE_LOST, ground, target, free(ground))
    write(ground, 1, 1)
    with pytest.raises(BadInput, match="no state was kept"):
        records_lost(STATE_LOST, ground, target, free(ground))
    back_up(ground)
    told = records_lost(STATE_LOST, ground, target, free(ground))
    assert {each.phase for each in told.outlook.phases} == set(Phase)
    with pytest.raises(BadInput, match="no GPU is free"):
        records_lost(STATE_LOST, ground, target, {})


def test_a_backend_of_a_drills_own_names_stacks_as_the_environments_does(
    ground: Ground, tmp_path: Path
) -> None:
    backend = SpareBackend(ground, tmp_path / "spare")
    platform = Stack(PLATFORM, ground.fleet.slug, site_of(ground))
    backend.put({platform: state(1, 1)})
    inside = tmp_path / "spare/pulumi/state/.pulumi"
    assert (inside / "meta.yaml").read_text() == "version: 1\n"
    assert (inside / f"stacks/gpufleet-platform/{platform.name}.json").read_bytes() == state(1, 1)


def files(ground: Ground) -> dict[str, bytes]:
    """The environment's own backend."""
    folder = ground.state.pulumi_state
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_state_that_cannot_be_read_is_passed_over(ground: Ground, tmp_path: Path) -> None:
    write(ground, 1, 1)
    back_up(ground)
    pools = Stack(POOLS, ground.fleet.slug, site_of(ground))

    def damaged() -> bytes:
        raise Failed("a chunk is lost")

    (good,) = kept_states(ground, pools, tmp_path)
    bad = replace(good, read=damaged)
    assert newest_readable([bad, good]) == (good, state(1, 1))
    with pytest.raises(Failed, match="none of 1 kept states can be read"):
        newest_readable([bad])
