"""A drill as it is played: what its times are from, and what keeps it from being met.

The stage, the gateway and the scenario stand in for real ones; the story is kept in a database.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
from tests.conftest import small_fleet

from gpufleet.edges import clock as clocks
from gpufleet.edges.audit_table import AuditTable
from gpufleet.edges.clock import system_clock
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import artifacts, onlooking, play
from gpufleet.flows.drills.artifacts import known_snapshot, newest_snapshot, not_shown
from gpufleet.flows.drills.objects import ANYWHERE, Where
from gpufleet.flows.drills.outlook import unproven, weights_of
from gpufleet.flows.drills.play import Play
from gpufleet.flows.drills.script import Common, Doubted
from gpufleet.flows.drills.scripts import script_of
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.drills.story import Story
from gpufleet.flows.ground import Ground
from gpufleet.spec import Fleet
from gpufleet.spec.audit import KeptSegment
from gpufleet.spec.drills import DrillPlan, DrillReport, DrillState, Outlook, Phase, Placed
from gpufleet.spec.errors import Failed, FleetError, Retryable
from gpufleet.spec.reports import AnswerRow
from gpufleet.spec.simulation import FaultKind
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule

if TYPE_CHECKING:
    from gpufleet.flows.durable import Run
    from gpufleet.flows.gateway_answers import Asking

T = TypeVar("T")
HOUR = timedelta(hours=1)


@dataclass
class Flow:
    """A flow whose steps are tried again at once, and which may find some done already."""

    ground: Ground
    done: dict[str, Any] = field(default_factory=dict)
    id: str = "drill-1"
    actor: str = "mara"

    def step(self, name: str, work: Callable[[], T]) -> T:
        while name not in self.done:
            try:
                self.done[name] = work()
            except Retryable:
                continue
        return cast("T", self.done[name])

    def note(self, event: str, **_: object) -> None:
        """Nobody reads the journal here."""


@dataclass
class World:
    """Two sites: replicas serve at some, and a gateway answers where any does."""

    model: str
    serving: set[str] = field(default_factory=set)
    stubborn: bool = False
    """Whether the gateway answers come what may."""
    hit: set[str] = field(default_factory=lambda: {"drill-answers"})
    """The pools whose stand-ins are there to fail."""
    ended_by: list[FaultKind] = field(default_factory=list)
    set_ups: list[tuple[str, bool]] = field(default_factory=list)
    during: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens while the scenario does something, by what."""

    def until_answered(
        self, use_case: str, until: float, stopped: Callable[[], bool]
    ) -> AnswerRow | FleetError:
        del until, stopped
        if not self.serving and not self.stubborn:
            return Retryable("no replica")
        return AnswerRow(
            use_case=use_case,
            route="primary",
            reason="",
            model=self.model,
            request_id="r",
            ttft_s=0.1,
            seconds=0.2,
            text="Yes.",
        )

    def set_up(self, stage: Fleet, site: str, *, started: bool, where: Where = ANYWHERE) -> None:
        del stage, where
        self.set_ups.append((site, started))
        if started:
            self.serving.add(site)

    def fail(self, site: str, kind: FaultKind) -> set[str]:
        self.ended_by.append(kind)
        self.serving.discard(site)
        return self.hit

    def ready_pools(self, site: str) -> dict[str, int]:
        return {"drill-answers": 1} if site in self.serving else {}

    def is_empty(self, site: str) -> bool:
        return site not in self.serving

    def happen(self, what: str) -> None:
        if what in self.during:
            self.during[what]()


@dataclass(frozen=True)
class Scenario(Common):
    """As planned."""

    world: World

    def prepare(self) -> None:
        self.world.happen("prepare")

    def fail(self) -> str:
        self.world.happen("fail")
        return "what has failed"

    def notice(self, fact: str, doubted: Doubted) -> str:
        del doubted
        self.world.happen("notice")
        return f"{fact} is noticed"

    def decide(self, fact: str) -> list[Placed]:
        self.world.happen("decide")
        return super().decide(fact)

    def choose(self, fact: str) -> str:
        self.world.happen("choose")
        return f"{fact} is chosen"

    def make_room(self, fact: str) -> str:
        self.world.happen("make room")
        return f"{fact} goes"

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        del placed, doubted
        self.world.happen("restore")
        return "restored"

    def lost_s(self, fact: str, failed_at: datetime) -> float:
        self.world.happen("count losses")
        return super().lost_s(fact, failed_at)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet("east", "west"))
    opened.close()


@pytest.fixture
def world(ground: Ground) -> World:
    return World(ground.fleet.use_cases["answers"].model)


def placed(site: str) -> Placed:
    return Placed(
        pool="answers",
        site=site,
        node_group=f"{site}-h100",
        replicas=1,
        nodes_per_replica=1,
        gpus_per_node=1,
    )


def plan(ground: Ground, *notes: str) -> DrillPlan:
    return DrillPlan(
        fleet=ground.fleet.fleet,
        environment=ground.fleet.environment,
        fleet_digest=f"sha256:{'0' * 64}",
        scenario="site-lost",
        target="east",
        use_cases=["answers"],
        lost=[placed("east")],
        placed=[placed("west")],
        unheld={},
        notes=list(notes),
        outlook=Outlook(phases=[], recovered_s=1, rto_s=60, source="", remedies=[]),
    )


def played(
    ground: Ground, world: World, done: dict[str, Any] | None = None, **different: object
) -> DrillReport:
    """The report of a drill that was played to its end."""
    run = cast("Run", Flow(ground, done or {}))
    wanted = plan(ground).model_copy(update=different)
    story = Story(run, wanted, "")
    story.begin()
    stage, asking = cast("Stage", world), cast("Asking", world)
    Play(run, wanted, story, stage, asking, Scenario(ground, wanted, stage, world)).perform()
    return story.ended()


def test_the_clock_runs_from_the_first_time_that_the_failure_is_tried(
    ground: Ground, world: World
) -> None:
    tried: list[datetime] = []

    def fail() -> None:
        tried.append(system_clock())
        if len(tried) < 3:
            raise Retryable("the node agent does not answer")

    world.during["fail"] = fail
    report = played(ground, world)
    assert report.state is DrillState.MET
    assert report.failed_at is not None
    assert report.failed_at <= tried[0]
    assert [each.phase for each in report.phases] == list(Phase)


@pytest.mark.parametrize("hit", [set(), {"drill-other"}])
def test_a_failure_that_does_not_take_is_no_drill(
    ground: Ground, world: World, hit: set[str]
) -> None:
    world.hit = hit
    with pytest.raises(Failed, match="no stand-in of answers is there to fail"):
        played(ground, world)


def test_a_failure_that_the_gateway_does_not_notice_keeps_a_drill_from_being_met(
    ground: Ground, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "_DETECTED_WITHIN_S", 0.0)
    world.stubborn = True
    report = played(ground, world)
    assert all(each.met for each in report.use_cases)
    assert (report.state, report.met) == (DrillState.MISSED, False)
    assert "the gateway went on answering for answers" in report.notes


def test_what_serves_again_where_it_was_lost_keeps_a_drill_from_being_met(
    ground: Ground, world: World
) -> None:
    world.during["restore"] = lambda: world.serving.add("east")
    report = played(ground, world)
    assert report.state is DrillState.MISSED
    assert "drill-answers at east serves, which was lost" in report.notes


def segment(begins: datetime) -> KeptSegment:
    """A segment that only `east` has."""
    return KeptSegment(
        chain="gateway.internal",
        data_class="internal",
        first=1,
        last=2,
        previous="0" * 64,
        head="1" * 64,
        digest="2" * 64,
        size_bytes=10,
        records=2,
        begins=begins,
        ends=begins,
        shipped_at=begins,
        keep_until=begins + HOUR,
        sites=["east"],
    )


def test_records_are_lost_as_of_the_failure_whatever_is_shipped_while_service_comes_back(
    ground: Ground, world: World
) -> None:
    table, kept = AuditTable(ground.database), segment(system_clock() - HOUR)
    table.add(kept, owed=["west"])
    world.during["decide"] = lambda: table.settle(kept, "west", has_it=True)
    report = played(ground, world)
    assert report.lost_s is not None
    assert HOUR.total_seconds() <= report.lost_s < 2 * HOUR.total_seconds()


def test_records_that_begin_after_the_failure_are_no_gain(ground: Ground, world: World) -> None:
    AuditTable(ground.database).add(segment(system_clock() + HOUR), owed=["west"])
    assert played(ground, world).lost_s == 0


def test_a_drill_during_which_the_clock_is_set_has_failed(
    ground: Ground, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.during["restore"] = lambda: monkeypatch.setattr(
        clocks, "system_clock", lambda: datetime.now(UTC) - HOUR
    )
    with pytest.raises(Failed, match="the clock was set"):
        played(ground, world)


def test_times_of_a_drill_are_steady_ones(ground: Ground, world: World) -> None:
    offset = [timedelta()]
    moved = replace(ground, clock=lambda: system_clock() + offset[0])
    world.during["decide"] = lambda: offset.__setitem__(0, -HOUR)
    world.during["restore"] = lambda: offset.__setitem__(0, HOUR)
    report = played(moved, world)
    assert report.state is DrillState.MET
    assert all(0 <= each.seconds < 600 for each in report.phases)
    assert report.recovered_s is not None
    assert 0 <= report.recovered_s < 600


def test_a_drill_that_is_gone_on_with_by_a_clock_that_was_set_back_has_failed(
    ground: Ground, world: World
) -> None:
    done = {"steady": ["answers"], "declared": (system_clock() + HOUR).isoformat()}
    with pytest.raises(Failed, match="the clock was set"):
        played(ground, world, done)


def test_a_store_that_does_not_answer_is_not_one_without_a_snapshot(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise Retryable("the store does not answer")

    assert newest_snapshot(ground, "west", "llama") is None
    monkeypatch.setattr(artifacts, "places_of", lambda _: {"west": None})
    monkeypatch.setattr(artifacts, "store_of", silent)
    assert known_snapshot(ground, "west", "llama") is None
    with pytest.raises(Retryable, match="the store does not answer"):
        newest_snapshot(ground, "west", "llama")
    script = script_of(ground, plan(ground), Stage(ground, "drill-1", "site-lost"))
    with pytest.raises(Retryable, match="the store does not answer"):
        script.restore([placed("west")], lambda _: None)


def test_weights_that_are_gone_since_the_plan_keep_a_drill_from_being_met(
    ground: Ground, world: World
) -> None:
    script = script_of(ground, plan(ground), Stage(ground, "drill-1", "site-lost"))
    doubts: list[str] = []
    script.restore([placed("west")], doubts.append)
    assert doubts == [not_shown(world.model, "west")]
    run = cast("Run", Flow(ground))
    for notes, kept in ((doubts, []), ([], doubts)):
        story = Story(run, plan(ground, *notes), "")
        story.begin()
        story.doubted(doubts[0])
        assert story.report().doubts == kept


@pytest.mark.parametrize("is_declared", [True, False])
def test_weights_that_are_declared_to_be_kept_and_are_not_keep_a_drill_from_being_met(
    ground: Ground, *, is_declared: bool
) -> None:
    model = ground.fleet.use_cases["answers"].model
    declared = {model: ScheduledRevision(source="/weights")} if is_declared else {}
    schedule = SnapshotSchedule(revisions=declared)
    fleet = ground.fleet.model_copy(update={"snapshot_schedule": schedule})
    here = replace(ground, fleet=fleet)
    notes = unproven(weights_of(here, [placed("west")]))
    assert len(notes) == 1
    assert ("cannot be met" in notes[0]) == is_declared
    story = Story(cast("Run", Flow(here)), plan(here, *notes), "")
    story.begin()
    script = script_of(here, plan(here), Stage(here, "drill-1", "site-lost"))
    script.restore([placed("west")], story.doubted)
    assert story.report().doubts == ([not_shown(model, "west")] if is_declared else [])


RECORDS: dict[str, Any] = {"scenario": "database-lost", "target": "database", "placed": []}


def test_what_serves_nobody_is_lost_while_the_replicas_go_on(ground: Ground, world: World) -> None:
    report = played(ground, world, **RECORDS)
    assert report.state is DrillState.MET
    assert [each.phase for each in report.phases] == list(Phase)
    details = {each.phase: each.detail for each in report.phases}
    assert details[Phase.DETECT] == "what has failed is noticed"
    assert details[Phase.DECIDE] == "what has failed is chosen"
    assert "go on" in details[Phase.PROVISION]
    assert "were answered meanwhile" in details[Phase.FIRST_TOKEN]
    assert world.ended_by == []
    assert all(started for _, started in world.set_ups)
    assert report.placed == []


def test_service_that_stops_while_something_else_is_lost_keeps_a_drill_from_being_met(
    ground: Ground, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onlooking, "_EVERY_S", 0.001)
    refused = threading.Event()
    ask = World.until_answered

    def asked(
        here: World, use_case: str, until: float, stopped: Callable[[], bool]
    ) -> AnswerRow | FleetError:
        found = ask(here, use_case, until, stopped)
        if isinstance(found, FleetError):
            refused.set()
        return found

    def stop() -> None:
        world.serving.clear()
        assert refused.wait(30)
        world.serving.add("east")

    monkeypatch.setattr(World, "until_answered", asked)
    world.during["restore"] = stop
    report = played(ground, world, **RECORDS)
    assert report.state is DrillState.MISSED
    assert "answers was refused meanwhile: no replica" in report.doubts


@pytest.mark.parametrize(
    ("different", "order"),
    [
        (RECORDS, ["fail", "restore", "count losses"]),
        # Whatever is shipped meanwhile would be no loss any more.
        ({}, ["fail", "count losses", "restore"]),
    ],
)
def test_how_much_is_lost_is_counted_when_it_shows(
    ground: Ground, world: World, different: dict[str, Any], order: list[str]
) -> None:
    happened: list[str] = []
    for what in order:
        world.during[what] = partial(happened.append, what)
    played(ground, world, **different)
    assert happened == order


def test_what_ends_with_its_machine_is_left_to_the_cluster(ground: Ground, world: World) -> None:
    room: list[list[tuple[str, bool]]] = []
    world.during["make room"] = lambda: room.append(list(world.set_ups))
    report = played(ground, world, scenario="node-lost", placed=[placed("east")])
    assert report.state is DrillState.MET
    assert world.ended_by == [FaultKind.POWER]
    # Nobody has touched its workload before the cluster gave its pod up.
    assert room == [[("east", True)]]
    (provision,) = (each for each in report.phases if each.phase is Phase.PROVISION)
    assert provision.detail.startswith("what has failed goes; ")
