"""Overrides of a freeze with real keys, on both kinds of database: asked, signed, used, ended."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpufleet.core.freeze import Decision, Purpose
from gpufleet.edges.database import Database
from gpufleet.edges.override_table import current_overrides
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import overrides
from gpufleet.flows.approvals import Signer, give, stands
from gpufleet.flows.freeze_questions import Asked
from gpufleet.flows.freezes import check
from gpufleet.flows.ground import Ground
from gpufleet.flows.overrides import Wish, note_use, overrides_in_force, settle
from gpufleet.flows.patch_plan import decision_on
from gpufleet.flows.windows import decision_at
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.overrides import OverrideState
from gpufleet.spec.patching import HostChange, Part, PatchOrder, PatchPlan, Wave
from gpufleet.spec.windows import ChangeKind

SAMPLE = PROJECT_ROOT / "fleets" / "sample"
NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
FREEZE = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1@test\r\n"
    "DTSTAMP:20260330T000000Z\r\nSUMMARY:Quarter end\r\nDTSTART:20260330T000000Z\r\n"
    "DTEND:20260402T000000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)


class Clock:
    """Tells the time that a test has set."""

    now = NOON

    def __call__(self) -> datetime:
        return self.now


def frozen_fleet(home: Path, keys: dict[str, Path]) -> Path:
    """A copy of the sample fleet at the end of a quarter, whose people have these keys."""
    folder = home / "sample"
    shutil.copytree(SAMPLE, folder)
    people = folder / "shared" / "company.yaml"
    lines = people.read_text().splitlines()
    for name, key in {"mara": "mara", "jonas": "jonas", "ines": "eve"}.items():
        public = keys[key].with_suffix(".pub").read_text().strip()
        lines = [
            f"      - {public}"
            if line.endswith(f" {name}@example.com") and "ssh-" in line
            else line
            for line in lines
        ]
    people.write_text("\n".join(lines) + "\n")
    for calendar in (folder / "calendars").glob("*.ics"):
        calendar.write_text(FREEZE)
    return folder / "production.yaml"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ground(database: Database, keys: dict[str, Path], tmp_path: Path, clock: Clock) -> Ground:
    """The sample fleet at the end of a quarter; mara may sign overrides, jonas and ines may not."""
    file = frozen_fleet(tmp_path, keys)
    state = EnvironmentDir(tmp_path / "state").make()
    return Ground(Workspace(PROJECT_ROOT), file, load_fleet(file), state, database, clock)


def wish(**changed: object) -> Wish:
    given = {
        "sites": ["fra1"],
        "changes": ["driver"],
        "why": "mends CVE-2026-1234",
        "pools": [],
        "node_groups": [],
        "hours": "2",
    }
    return Wish(**{**given, **changed})  # type: ignore[arg-type]


def asked(ground: Ground, keys: dict[str, Path], **changed: object) -> str:
    override = overrides.planned(ground, wish(**changed), "jonas")
    overrides.ask(ground, Signer("jonas", keys["jonas"]), override)
    return override.id


def granted(ground: Ground, keys: dict[str, Path], **changed: object) -> str:
    id_ = asked(ground, keys, **changed)
    give(ground, Signer("mara", keys["mara"]), id_)
    return id_


def decision(ground: Ground, site: str = "fra1", **changed: object) -> Decision:
    given = {"change": ChangeKind.DRIVER, "overrides": lambda: overrides_in_force(ground)}
    return decision_at(
        ground.fleet,
        ground.fleet_file,
        site,
        ground.clock(),
        **{**given, **changed},  # type: ignore[arg-type]
    )


def events(ground: Ground) -> list[str]:
    return [record.event for record in ground.journal.records()]


def test_a_freeze_is_lifted_for_its_scope_once_another_identity_has_signed(
    ground: Ground, keys: dict[str, Path]
) -> None:
    id_ = asked(ground, keys)
    assert not decision(ground).admitted
    give(ground, Signer("mara", keys["mara"]), id_)
    lifted = decision(ground)
    assert lifted.admitted
    assert lifted.overrides == (id_,)
    assert "Quarter end" in lifted.reason
    assert not decision(ground, "dub1").admitted
    assert not decision(ground, change=ChangeKind.STACKS).admitted
    [(_, standing)] = stands(ground)
    assert standing.is_granted


def test_every_playbook_honours_what_this_clones_environment_keeps(
    ground: Ground, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = granted(ground, keys)
    url = ground.database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", url)
    assert decision(ground, overrides=None).overrides == (id_,)


def test_a_check_by_hand_names_the_override_that_lifts_the_freeze(
    ground: Ground, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = granted(ground, keys)
    url = ground.database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", url)
    for scope, allowed in {"site=fra1": True, "site=dub1": False, "": False}.items():
        question = Asked(at=NOON.isoformat(), scope=scope, change="driver")
        found = check(ground.workspace, ground.fleet_file, question)
        assert found.allowed is allowed
        assert found.overrides == ([id_] if allowed else [])
        assert "Quarter end" in found.reason


def test_an_environment_without_a_database_has_no_overrides_and_gets_none(tmp_path: Path) -> None:
    state = EnvironmentDir(tmp_path / "never-up")
    assert current_overrides(state, {}, NOON) == []
    assert not state.root.exists()


@pytest.mark.parametrize(
    ("who", "key", "why"),
    [
        ("jonas", "jonas", "of their own"),
        ("ines", "eve", "needs one of the roles"),
        ("mara", "jonas", "is not a declared key of mara"),
    ],
)
def test_nobody_lifts_a_freeze_alone_or_without_a_role(
    ground: Ground, keys: dict[str, Path], who: str, key: str, why: str
) -> None:
    id_ = asked(ground, keys)
    with pytest.raises(PolicyRefused, match=why) as caught:
        give(ground, Signer(who, keys[key]), id_)
    assert caught.value.exit_code == 3
    assert not decision(ground).admitted
    assert not stands(ground)[0][1].is_granted


def test_an_override_that_was_changed_after_it_was_signed_lifts_nothing(
    ground: Ground, keys: dict[str, Path]
) -> None:
    granted(ground, keys)
    with ground.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE fleet_overrides SET statement = replace(statement, 'fra1', 'dub1')"
        )
    assert not decision(ground, "dub1").admitted
    [row] = overrides.listed(ground)
    assert row.state is OverrideState.INVALID


def test_an_expired_override_lifts_nothing_and_cannot_be_signed(
    ground: Ground, keys: dict[str, Path], clock: Clock
) -> None:
    id_ = granted(ground, keys)
    late = asked(ground, keys, hours="1")
    clock.now = NOON + timedelta(hours=2)
    assert not decision(ground).admitted
    with pytest.raises(PolicyRefused, match="has expired") as caught:
        give(ground, Signer("mara", keys["mara"]), late)
    assert caught.value.exit_code == 3
    with pytest.raises(PolicyRefused, match="has ended already"):
        overrides.revoke(ground, id_, "mara")
    assert overrides.listed(ground, only_open=True) == []


def test_a_revoked_override_lifts_nothing_from_then_on(
    ground: Ground, keys: dict[str, Path]
) -> None:
    id_ = granted(ground, keys)
    assert overrides.revoke(ground, id_, "eve").state is OverrideState.REVOKED
    assert not decision(ground).admitted
    assert events(ground)[-1] == "override.ended"


def test_a_change_that_outlasts_its_override_is_refused(
    ground: Ground, keys: dict[str, Path]
) -> None:
    granted(ground, keys)
    assert decision(ground, needs=timedelta(hours=2)).admitted
    assert not decision(ground, needs=timedelta(hours=3)).admitted


def test_an_override_of_one_flow_lifts_that_flow(ground: Ground, keys: dict[str, Path]) -> None:
    granted(ground, keys, flow="patch-1")
    assert not decision(ground).admitted
    assert decision(ground, flow="patch-1").admitted


def test_a_patch_is_lifted_by_an_override_of_its_hosts_alone(
    ground: Ground, keys: dict[str, Path]
) -> None:
    def patched(group: str) -> Decision:
        host = HostChange(
            host=f"{group}-001",
            site="fra1",
            rack="r1",
            node_group=group,
            pools=["chat"],
            before="",
            after="580.105.08",
        )
        order = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version=host.after)
        plan = PatchPlan(
            fleet="sample",
            environment="production",
            fleet_digest=f"sha256:{'0' * 64}",
            order=order,
            hosts={host.host: host},
            waves=[Wave(number=1, batches=[[host.host]])],
            gates=[],
            batch_s=60,
            rollback_s=60,
            can_go_back=True,
            left_out={},
        )
        return decision_on(ground, plan, "fra1", [host.host], Purpose.CHANGE, "patch-1")

    granted(ground, keys, node_groups=["fra1-chat"], begins="2026-03-31T12:00Z")
    found, other = patched("fra1-chat"), patched("fra1-code")
    assert found.admitted
    assert found.overrides
    assert not other.admitted
    assert "it is for node groups fra1-chat only" in other.reason


def test_its_life_is_journalled_each_thing_once(
    ground: Ground, keys: dict[str, Path], clock: Clock
) -> None:
    granted(ground, keys)
    for _ in range(2):
        settle(ground, set())
        for site in ("fra1", "fra1"):
            note_use(ground, decision(ground), actor="jonas", target=site, flow="patch-1")
    clock.now = NOON + timedelta(hours=3)
    for _ in range(2):
        settle(ground, set())
    told = [event for event in events(ground) if event.startswith("override.")]
    assert told == ["override.asked", "override.granted", "override.used", "override.ended"]


def test_what_needs_no_override_uses_none(ground: Ground, keys: dict[str, Path]) -> None:
    granted(ground, keys)
    exempt = decision(ground, purpose=Purpose.ROLLBACK)
    assert exempt.exempt
    assert exempt.overrides == ()


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"sites": []}, "--sites"),
        ({"changes": []}, "--changes"),
        ({"changes": ["everything"]}, "--changes"),
        ({"why": " "}, "--why"),
        ({"sites": ["nowhere"]}, "--sites"),
        ({"sites": ["no way"]}, "--sites"),
        ({"pools": ["nothing"]}, "--pools"),
        ({"hours": "0"}, "--hours"),
        ({"hours": "5"}, "--hours"),
        ({"hours": "nan"}, "--hours"),
        ({"hours": "inf"}, "--hours"),
        ({"hours": "abc"}, "--hours"),
        ({"begins": "tomorrow"}, "--begins"),
        ({"begins": "2026-03-31T12:00"}, "--begins"),
        ({"begins": "2026-03-30T12:00Z"}, "--begins"),
    ],
)
def test_an_override_that_makes_no_sense_is_one_error(
    ground: Ground, changed: dict[str, object], where: str
) -> None:
    with pytest.raises(BadInput) as caught:
        overrides.planned(ground, wish(**changed), "jonas")
    assert caught.value.where == where
    assert caught.value.exit_code == 2
